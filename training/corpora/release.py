"""What the readers of releases share: finding files, reading text of any age, and caching the parsed table."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from training.corpora.table import Corpus, Utterance
from training.errors import TrainingError
from training.files import write_atomically

FORMAT = 3  # of the cached table; raise it when a reader's answer changes

# Windows-1252 punctuation that was decoded as Latin-1 and became C1 control characters
_WINDOWS_1252 = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}


@dataclass(frozen=True)
class Release:
    """The files that determine a corpus's table. Paths are absolute."""

    root: Path
    annotations: tuple[Path, ...]  # read when the table is made
    audio: frozenset[Path]  # only their existence matters to the table


def files(directory: Path, pattern: str) -> list[Path]:
    """Files in a directory that match, sorted, without the `._` files that macOS leaves in archives."""
    return sorted(path for path in directory.glob(pattern) if path.is_file() and not path.name.startswith("._"))


def read_text(path: Path) -> str:
    """A text file as a string: UTF-8, else Latin-1; stray Windows-1252 quotes mended; line ends as LF.

    Raises:
        TrainingError: it can't be read.
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
    """How many there are and the first few: "12 files, such as a, b, c"."""
    listed = [str(name) for name in names]
    if len(listed) <= 3:
        return ", ".join(listed)
    return f"{len(listed)} files, such as {', '.join(listed[:3])}"


def cached(name: str, release: Release, happy: str, cache: Path, read: Callable[[], Corpus]) -> Corpus:
    """The table from the cache where the release is the one it was made from, else from `read`, cached for next time.

    The key is a fingerprint of the root, names, sizes and times of the annotation files, the set of audio files, the
    options and FORMAT. A damaged file in the cache is made anew.
    """
    key = hashlib.sha256(repr((FORMAT, name, str(release.root), happy)).encode())
    for path in release.annotations:
        status = path.stat()
        key.update(repr((str(path), status.st_size, status.st_mtime_ns)).encode())
    for path in sorted(release.audio):
        key.update(repr(str(path)).encode())
    table = cache / f"corpus-{name}-{key.hexdigest()[:16]}.json"
    try:
        return _from_json(table.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError):  # absent or damaged (a JSON error and ours are ValueErrors)
        corpus = read()
    write_atomically(table, _to_json(corpus))
    return corpus


def _to_json(corpus: Corpus) -> str:
    return json.dumps(asdict(corpus), default=str)  # paths are the one type that JSON lacks


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
