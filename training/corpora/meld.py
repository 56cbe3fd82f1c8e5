"""Read MELD: dialogues of the television series Friends, in English, with published splits.

    train_sent_emo.csv  dev_sent_emo.csv  test_sent_emo.csv
    train/  dev/  test/    dia<D>_utt<U>.wav (or .flac, .mp3); the release's video folder names are accepted too

The release contains videos, whose sound must be extracted first. Some clips are missing or damaged; utterances without
a clip are dropped and counted. The main characters speak in all three splits.
"""

import csv
import io
from pathlib import Path

from training.corpora.release import Release, files, read_text
from training.corpora.table import HAPPINESS_DROPPED, Collector, Corpus, Utterance
from training.errors import TrainingError

PUBLISHER = "https://affective-meld.github.io/"
FOLDER = "MELD.Raw"
TABLES = {"train": "train_sent_emo.csv", "validation": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
CLIPS = {
    "train": ("train", "train_splits", "train/train_splits"),
    "validation": ("dev", "dev_splits_complete", "dev/dev_splits_complete"),
    "test": ("test", "output_repeated_splits_test", "test/output_repeated_splits_test"),
}
SUFFIXES = (".wav", ".flac", ".mp3")
VIDEO = ".mp4"
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
KEPT = {"neutral": "neutral", "anger": "anger", "sadness": "sadness", "joy": "excitement"}
HAPPINESS = "joy"
DROPPED = ("surprise", "fear", "disgust")


def find(root: Path) -> Release:
    """Find the files of a release in its folder or in the folder that contains MELD.Raw.

    Raises:
        TrainingError: a table or the clips of a split are missing, or the clips are videos only.
    """
    if (root / FOLDER).is_dir():
        root = root / FOLDER
    # the archive of the training split contains its table
    tables = [
        next((p for p in (root / name, root / "train" / name) if p.is_file()), root / name) for name in TABLES.values()
    ]
    missing = [path.name for path in tables if not path.is_file()]
    if missing:
        raise TrainingError(
            f"MELD in {root} lacks {', '.join(missing)}; expected there are {', '.join(TABLES.values())} and "
            f"the folders train, dev and test with clips such as dia0_utt3.wav. MELD is obtained from {PUBLISHER}"
        )
    clips: list[Path] = []
    for names in CLIPS.values():
        folders = [root / name for name in names]
        found = [path for folder in folders for path in files(folder, "dia*_utt*") if path.suffix in (*SUFFIXES, VIDEO)]
        if not any(path.suffix in SUFFIXES for path in found):
            raise _no_sound(root, names, found)
        clips += found
    return Release(root, tuple(tables), frozenset(clips))


def _no_sound(root: Path, names: tuple[str, ...], videos: list[Path]) -> TrainingError:
    if not videos:
        return TrainingError(
            f"MELD in {root} has no clips in {' or '.join(names[:2])}; expected are files such as dia0_utt3.wav. "
            f"MELD is obtained from {PUBLISHER}"
        )
    folder = videos[0].parent
    return TrainingError(
        f"{folder} holds {len(videos)} videos and no audio; extract their sound: for video in {folder}/dia*{VIDEO}; do "
        f'ffmpeg -nostdin -loglevel error -i "$video" -vn -ac 1 -ar 16000 "${{video%{VIDEO}}}.wav"; done'
    )


def read(release: Release, happiness_policy: str) -> Corpus:
    """Read the three tables and find the clip of each utterance.

    Raises:
        TrainingError: a table is not as published.
    """
    table = Collector("meld")
    for split, path in zip(TABLES, release.annotations, strict=True):
        clips = {
            (clip.stem, clip.suffix): clip
            for name in CLIPS[split]
            for clip in release.audio
            if clip.parent == release.root / name
        }
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        absent = set(COLUMNS) - set(reader.fieldnames or ())
        if absent:
            raise TrainingError(
                f"{path} lacks the columns {', '.join(sorted(absent))}; download it again from {PUBLISHER}"
            )
        for row in reader:
            text, speaker, emotion, dialogue, utterance = ((row[column] or "").strip() for column in COLUMNS)
            if emotion not in (*KEPT, *DROPPED) or not dialogue.isdecimal() or not utterance.isdecimal():
                raise TrainingError(
                    f"{path}, line {reader.line_num}: Emotion {emotion!r}, Dialogue_ID {dialogue!r}, Utterance_ID "
                    f"{utterance!r}; expected are one of {', '.join((*KEPT, *DROPPED))} and two numbers. Download the "
                    f"file again from {PUBLISHER}"
                )
            name = f"dia{dialogue}_utt{utterance}"
            audio = next((clips[name, suffix] for suffix in SUFFIXES if (name, suffix) in clips), None)
            if emotion in DROPPED:
                table.drop(f"{emotion} is not among the five emotions")
            elif emotion == HAPPINESS and happiness_policy == "drop":
                table.drop(HAPPINESS_DROPPED)
            elif audio is None and (name, VIDEO) in clips:
                table.drop("its clip is there as a video alone, without extracted sound")
            elif audio is None:
                table.drop("its clip is missing from the release")
            else:
                table.keep(
                    Utterance(
                        id=f"{split}_{name}",
                        audio=audio,
                        text=text,
                        emotion=KEPT[emotion],
                        speaker=speaker or None,
                        dialogue=f"{split}_dia{dialogue}",  # the numbers restart in each split
                        split=split,
                    )
                )
    return table.corpus()
