"""Load each supported corpus as the same table of utterances; audio is not read until it is used."""

from pathlib import Path

from training.corpora import emodb, goemotions, iemocap, manifest, meld
from training.corpora.release import cached
from training.corpora.table import HAPPINESS_POLICIES, Corpus, Utterance, account
from training.errors import TrainingError

_RELEASES = {"iemocap": iemocap, "goemotions": goemotions, "emodb": emodb, "meld": meld}
CORPORA: tuple[str, ...] = (*_RELEASES, "manifest")

__all__ = ["CORPORA", "Corpus", "Utterance", "account", "load"]


def load(name: str, root: Path, happiness_policy: str = "merge", cache: Path | None = None) -> Corpus:
    """Load a corpus.

    Args:
        name: one of CORPORA.
        root: folder of the release; for "manifest" the CSV or JSONL file.
        happiness_policy: "merge" counts happiness as excitement, "drop" leaves it out.
        cache: directory for the parsed table; None does not cache. A manifest is read each time.

    Raises:
        TrainingError: the corpus is missing, incomplete or not as published; the message names what was expected, and
            the publisher.
    """
    if name not in CORPORA:
        raise TrainingError(f"no corpus is called {name!r}; there are {', '.join(CORPORA)}")
    if happiness_policy not in HAPPINESS_POLICIES:
        raise TrainingError(
            f"the happiness policy is {happiness_policy!r}; accepted are {', '.join(HAPPINESS_POLICIES)}"
        )
    root = root.expanduser().absolute()
    if name == "manifest":
        return manifest.read(root, happiness_policy)
    reader = _RELEASES[name]
    release = reader.find(root)
    if cache is None:
        return reader.read(release, happiness_policy)
    return cached(name, release, happiness_policy, cache, lambda: reader.read(release, happiness_policy))
