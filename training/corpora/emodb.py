"""Read EmoDB, the Berlin Database of Emotional Speech: ten actors, ten scripted sentences in German.

Two layouts are accepted: the publisher's folder `wav` with names such as 03a01Fa.wav, and a folder with `labels.tsv`
(columns file, speaker, sentence, emotion) beside the audio. Utterances have no text, because the text model is English.
"""

import csv
import re
from pathlib import Path

from training.corpora.release import Release, files, name_some, read_text
from training.corpora.table import HAPPINESS_DROPPED, Collector, Corpus, Utterance
from training.errors import TrainingError

PUBLISHER = "http://emodb.bilderbar.info"
TABLE = "labels.tsv"
COLUMNS = ("file", "speaker", "sentence", "emotion")
LETTERS = {  # initial of the German word in the file name
    "W": "anger",
    "F": "happiness",
    "N": "neutral",
    "T": "sadness",
    "L": "boredom",
    "E": "disgust",
    "A": "anxiety",
}
# from the publisher's list of speakers
GROUPS = dict.fromkeys(("08", "09", "13", "14", "16"), "female") | dict.fromkeys(("03", "10", "11", "12", "15"), "male")
KEPT = {"neutral": "neutral", "anger": "anger", "sadness": "sadness", "happiness": "excitement"}

_NAME = re.compile(r"(?P<speaker>\d\d)(?P<sentence>[ab]\d\d)(?P<letter>[WFNTLEA])[a-z]?")


def find(root: Path) -> Release:
    """Find the files of either layout; the publisher's may be given as the folder `wav` or its parent.

    Raises:
        TrainingError: neither layout is found.
    """
    if (root / TABLE).is_file():
        return Release(root, (root / TABLE,), frozenset(path for path in files(root, "*") if path.name != TABLE))
    folder = root / "wav" if (root / "wav").is_dir() else root
    recordings = files(folder, "*.wav")
    if not any(_NAME.fullmatch(path.stem) for path in recordings):
        raise TrainingError(
            f"no EmoDB in {root}: expected is a folder wav with files such as 03a01Fa.wav, or a {TABLE} (columns "
            f"{', '.join(COLUMNS)}) beside the audio. EmoDB is obtained from {PUBLISHER}"
        )
    return Release(folder, (), frozenset(recordings))


def read(release: Release, happiness_policy: str) -> Corpus:
    """Read the file names or the table.

    Raises:
        TrainingError: the table is not as described, or recordings that it lists are missing.
    """
    table = Collector("emodb")
    rows = _rows_of_table(release) if release.annotations else _rows_of_names(release, table)
    for audio, speaker, sentence, emotion in rows:
        utterance = Utterance(
            id=audio.stem,
            audio=audio,
            text=None,
            emotion=KEPT.get(emotion, ""),
            speaker=speaker,
            dialogue=sentence,
            style="scripted",
            group=GROUPS.get(speaker),
            labels=(emotion,),
        )
        if emotion == "happiness" and happiness_policy == "drop":
            table.drop(HAPPINESS_DROPPED, utterance)
        elif emotion not in KEPT:
            table.drop(f"{emotion} is not among the five emotions", utterance)
        else:
            table.keep(utterance)
    return table.corpus()


def _rows_of_names(release: Release, table: Collector) -> list[tuple[Path, str, str, str]]:
    rows = []
    for path in sorted(release.audio):
        if name := _NAME.fullmatch(path.stem):
            rows.append((path, name["speaker"], name["sentence"], LETTERS[name["letter"]]))
        else:
            table.drop("the file name is not of the form 03a01Fa.wav")
    return rows


def _rows_of_table(release: Release) -> list[tuple[Path, str, str, str]]:
    labels = release.root / TABLE
    reader = csv.DictReader(read_text(labels).split("\n"), delimiter="\t")
    absent = set(COLUMNS) - set(reader.fieldnames or ())
    if absent:
        raise TrainingError(f"{labels} lacks the columns {', '.join(sorted(absent))}; it needs {', '.join(COLUMNS)}")
    rows = []
    for row in reader:
        name, speaker, sentence, emotion = (row[column] or "" for column in COLUMNS)
        if not (name and speaker) or emotion not in LETTERS.values():
            raise TrainingError(
                f"{labels}, line {reader.line_num}: file {name!r}, speaker {speaker!r}, emotion {emotion!r}; each row "
                f"needs a file, a speaker and one of {', '.join(LETTERS.values())}"
            )
        rows.append((release.root / name, speaker, sentence, emotion))
    missing = [path.name for path, *_ in rows if path not in release.audio]
    if missing:
        raise TrainingError(
            f"EmoDB in {release.root} is incomplete: {TABLE} names recordings that are not beside it: "
            f"{name_some(missing)}. EmoDB is obtained from {PUBLISHER}"
        )
    return rows
