"""Train conventional classifiers on the same folds, for comparison.

| modality | features | classifier |
| --- | --- | --- |
| text | TF-IDF of words and word pairs | logistic regression |
| audio | eGeMAPS (Eyben et al., 2016), the 88 functionals of openSMILE, standardised | support vector machine |

openSMILE is free for research only and is not installed with emoserve (pip install opensmile). Without it the audio
baseline is left out.
"""

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from emotion.audio import SAMPLE_RATE
from emotion.labels import EMOTIONS
from emotion.loudness import find_sound
from emotion.progress import progress
from emotion.text import clean
from training.corpora import Corpus, Utterance
from training.metrics import Metrics, of_decisions
from training.recordings import Recordings
from training.splits import Split


def judge(corpus: Corpus, folds: Sequence[Split], recordings: Recordings) -> list[tuple[str, Metrics]]:
    """Train and test each baseline that the corpus allows.

    Args:
        corpus: texts give the text baseline, recordings the audio baseline.
        folds: the splits to train and test on.
        recordings: waveforms of the corpus.

    Returns:
        Name and metrics of each baseline, over the test utterances of all folds.
    """
    found = []
    spoken = [each for each in corpus.utterances if each.audio is not None]
    written = [each for each in corpus.utterances if each.text is not None]
    if written:
        texts = np.array([clean(each.text or "") for each in written], object)
        found.append(("text: TF-IDF + logistic regression", _run(written, texts, folds, _text_classifier)))
    if spoken and importlib.util.find_spec("opensmile"):
        features = _egemaps(spoken, recordings)
        found.append(("audio: eGeMAPS + SVM", _run(spoken, features, folds, _audio_classifier)))
    return found


def _text_classifier() -> Pipeline:
    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        LogisticRegression(C=4.0, class_weight="balanced", max_iter=2000),
    )


def _audio_classifier() -> Pipeline:
    return make_pipeline(StandardScaler(), SVC(class_weight="balanced"))


def _run(
    utterances: Sequence[Utterance],
    features: NDArray[np.generic],
    folds: Sequence[Split],
    classifier: Callable[[], Pipeline],
) -> Metrics:
    ids = np.array([each.id for each in utterances])
    truth = np.array([EMOTIONS.index(each.emotion) for each in utterances])
    answers, truths, speakers = [], [], []
    for split in folds:
        train, test = np.isin(ids, split.train), np.isin(ids, split.test)
        answers.append(classifier().fit(features[train], truth[train]).predict(features[test]))
        truths.append(truth[test])
        speakers += [each.speaker for each, tested in zip(utterances, test, strict=True) if tested]
    return of_decisions(np.concatenate(truths), np.concatenate(answers), speakers=speakers)


def _egemaps(utterances: Sequence[Utterance], recordings: Recordings) -> NDArray[np.float64]:
    """Return the functionals of each recording: float64 [n, 88]."""
    import opensmile  # optional, see the module's docstring

    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
    )
    rows = []
    with progress() as bar:
        task = bar.add_task("eGeMAPS", total=len(utterances))
        for utterance in utterances:
            assert utterance.audio is not None
            sound = find_sound(recordings[utterance.audio])
            assert sound is not None  # decode_all rejects recordings without sound
            rows.append(smile.process_signal(sound.waveform, SAMPLE_RATE).to_numpy()[0])
            bar.advance(task)
    return np.stack(rows)
