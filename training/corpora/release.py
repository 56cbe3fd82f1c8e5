"""Helpers for readers of releases: find files, read text of any encoding, cache the parsed table."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from training.corpora.table import Corpus, Utterance
from training.errors import TrainingError
from training.files import write_atomically

FORMAT = 4  # of the cached table; raise it when the result of a reader changes

# C1 control characters -> the Windows-1252 punctuation that was decoded as Latin-1
_WINDOWS_1252 = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}


@dataclass(frozen=True)
class Release:
    """The files that determine a corpus's table, with absolute paths."""

    root: Path
    annotations: tuple[Path, ...]  # read to build the table
    audio: frozenset[Path]  # the table depends on their existence alone


def files(directory: Path, pattern: str) -> list[Path]:
    """Return the matching files in a directory, sorted, without the `._` files that macOS adds to archives."""
    return sorted(path for path in directory.glob(pattern) if path.is_file() and not path.name.startswith("._"))


def read_text(path: Path) -> str:
    """Return a text file as a string: UTF-8 or else Latin-1, with Windows-1252 quotes repaired and LF as line end.

    Raises:
        TrainingError: the file can't be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"{path} can't be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.translate(_WINDOWS_1252).replace("\r\n", "\n")


def name_some(names: Iterable[object]) -> str:
    """Return up to three names, or their number and the first three: "12 files, such as a, b, c"."""
    listed = [str(name) for name in names]
    if len(listed) <= 3:
        return ", ".join(listed)
    return f"{len(listed)} files, such as {', '.join(listed[:3])}"


def cached(name: str, release: Release, happiness_policy: str, cache: Path, read: Callable[[], Corpus]) -> Corpus:
    """Return the table from the cache, or from `read` if the release changed or the cached file is damaged.

    The key is a hash of the root, names, sizes and times of the annotation files, the set of audio files, the options
    and FORMAT.
    """
    key = hashlib.sha256(repr((FORMAT, name, str(release.root), happiness_policy)).encode())
    for path in release.annotations:
        status = path.stat()
        key.update(repr((str(path), status.st_size, status.st_mtime_ns)).encode())
    for path in sorted(release.audio):
        key.update(repr(str(path)).encode())
    table = cache / f"corpus-{name}-{key.hexdigest()[:16]}.json"
    try:
        return _from_json(table.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError):  # missing or damaged (JSON errors and ours are ValueErrors)
        corpus = read()
    write_atomically(table, _to_json(corpus))
    return corpus


def _to_json(corpus: Corpus) -> str:
    return json.dumps(asdict(corpus), default=str)  # default=str converts paths


def _from_json(text: str) -> Corpus:
    table = json.loads(text)
    utterances, others = (
        tuple(
            Utterance(**row | {"audio": row["audio"] and Path(row["audio"]), "labels": tuple(row["labels"])})
            for row in table[part]
        )
        for part in ("utterances", "others")
    )
    return Corpus(table["name"], utterances, table["dropped"], others)
