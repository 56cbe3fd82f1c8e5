"""Read a user's own corpus: one CSV or JSONL file with audio paths relative to it.

Required columns: emotion, and audio or text or both. Optional: id, speaker, session, dialogue, style, split.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from emotion.labels import EMOTIONS
from training.corpora.release import name_some
from training.corpora.table import HAPPINESS_DROPPED, SPLITS, STYLES, Collector, Corpus, Utterance
from training.errors import TrainingError

COLUMNS = ("id", "audio", "text", "emotion", "speaker", "session", "dialogue", "style", "split")
HAPPINESS = ("happy", "happiness", "joy")
ACCEPTED = {"emotion": (*EMOTIONS, *HAPPINESS), "style": STYLES, "split": SPLITS}


def read(path: Path, happiness_policy: str) -> Corpus:
    """Read a manifest. The id of a row without one is its audio path or its line number.

    Raises:
        TrainingError: the file is missing, or a row is not as described; the message names the line.
    """
    table = Collector("manifest")
    lines: dict[str, int] = {}
    missing: list[str] = []
    for line, row in _rows(path):
        for column, accepted in ACCEPTED.items():
            if column in row and row[column] not in accepted:
                raise TrainingError(
                    f"{path}, line {line}: {column} {row[column]!r}; accepted are {', '.join(accepted)}. "
                    "Remove other rows, or give them one of these"
                )
        if "emotion" not in row:
            raise TrainingError(f"{path}, line {line} has no emotion; accepted are {', '.join(ACCEPTED['emotion'])}")
        name = row.get("id") or row.get("audio") or f"line-{line}"
        if name in lines:
            raise TrainingError(
                f"{path}, line {line}: {name} is on line {lines[name]} too; give each row an id of its own"
            )
        lines[name] = line
        audio = path.parent / row["audio"] if "audio" in row else None
        if audio is not None and not audio.is_file():
            missing.append(f"{row['audio']} (line {line})")
        if row["emotion"] in HAPPINESS and happiness_policy == "drop":
            table.drop(HAPPINESS_DROPPED)
            continue
        emotion = "excitement" if row["emotion"] in HAPPINESS else row["emotion"]
        speaker, session, dialogue, style, split = (row.get(column) for column in COLUMNS[4:])
        table.keep(Utterance(name, audio, row.get("text"), emotion, speaker, session, dialogue, style, split))
    if missing:
        raise TrainingError(f"{path} names audio that is not there, relative to {path.parent}: {name_some(missing)}")
    return table.corpus()


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the filled columns of each row; emotion, style and split in lower case."""
    if not path.is_file():
        raise TrainingError(
            f"no manifest at {path}: give a CSV or JSONL file with the columns {', '.join(COLUMNS)} (needed are "
            "emotion, and audio or text)"
        )
    if path.suffix not in (".csv", ".jsonl"):
        raise TrainingError(f"{path} is neither .csv nor .jsonl; rename it by its content")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path} is not UTF-8 (at byte {error.start}); save it as UTF-8") from None
    for line, row in _csv(path, text) if path.suffix == ".csv" else _jsonl(path, text):
        _reject_unknown_columns(path, line, row)
        filled = {column: value.strip() for column, value in row.items() if value.strip()}
        yield line, {column: value.lower() if column in ACCEPTED else value for column, value in filled.items()}


def _reject_unknown_columns(path: Path, line: int, row: dict[str, str]) -> None:
    unknown = [column for column in row if column not in COLUMNS]
    if unknown:
        raise TrainingError(
            f"{path}, line {line}: unknown column {', '.join(map(repr, unknown))}; accepted are {', '.join(COLUMNS)}"
        )


def _csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _reject_unknown_columns(path, 1, dict.fromkeys(reader.fieldnames or (), ""))
        for row in reader:
            if None in row or None in row.values():
                raise TrainingError(
                    f"{path}, line {reader.line_num} has not the {len(reader.fieldnames or ())} fields of the header; "
                    "put texts with commas in quotation marks"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise TrainingError(f"{path}, line {reader.line_num}: {error}; check its quotation marks") from None


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise TrainingError(f"{path}, line {line} is not JSON ({error.msg}); write one object a line") from None
        if not isinstance(row, dict) or not all(isinstance(value, str | int | None) for value in row.values()):
            raise TrainingError(f'{path}, line {line}: expected is an object of texts, such as {{"emotion": "anger"}}')
        yield line, {column: str(value) for column, value in row.items() if value is not None}
