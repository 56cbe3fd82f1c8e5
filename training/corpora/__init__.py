"""Every corpus as the same table of utterances. Loading reads annotations alone: audio is decoded where it is used."""

from pathlib import Path

from training.corpora import emodb, goemotions, iemocap, manifest, meld
from training.corpora.release import cached
from training.corpora.table import HAPPY, Corpus, Utterance, account
from training.errors import TrainingError

_RELEASES = {"iemocap": iemocap, "goemotions": goemotions, "emodb": emodb, "meld": meld}
CORPORA: tuple[str, ...] = (*_RELEASES, "manifest")

__all__ = ["CORPORA", "Corpus", "Utterance", "account", "load"]


def load(name: str, root: Path, happy: str = "merge", cache: Path | None = None) -> Corpus:
    """Read a corpus.

    Args:
        name: one of CORPORA.
        root: the release's folder; for "manifest" the CSV or JSONL file.
        happy: "merge" counts happiness as excitement, "drop" leaves it out.
        cache: a directory in which the parsed table is kept (a manifest is a table already and is read each time).

    Raises:
        TrainingError: the corpus is absent, incomplete or not as published; the message says what was expected where
            and who publishes it.
    """
    if name not in CORPORA:
        raise TrainingError(f"no corpus is called {name!r}; there are {', '.join(CORPORA)}")
    if happy not in HAPPY:
        raise TrainingError(f"happy is {happy!r}; accepted are {', '.join(HAPPY)}")
    root = root.expanduser().absolute()
    if name == "manifest":
        return manifest.read(root, happy)
    reader = _RELEASES[name]
    release = reader.find(root)
    if cache is None:
        return reader.read(release, happy)
    return cached(name, release, happy, cache, lambda: reader.read(release, happy))
