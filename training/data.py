"""Load what all folds of a run share: the corpus, its decoded recordings and the tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from emotion import checkpoint as checkpoints
from emotion.text import WordPiece
from training import corpora, splits
from training.corpora import Corpus, account
from training.corpora.release import name_some
from training.datasets import Utterances, tokenise
from training.errors import TrainingError
from training.recordings import Recordings, decode_all
from training.settings import Settings


@dataclass(frozen=True)
class TrainingData:
    """Corpus, recordings and tokenizer of a run.

    Attributes:
        corpus: the table of utterances.
        recordings: the decoded waveforms of all its recordings.
        tokenizer: of the checkpoint that training starts from.
    """

    corpus: Corpus
    recordings: Recordings
    tokenizer: WordPiece

    def part(self, ids: Sequence[str]) -> Utterances:
        """Return the utterances with these ids as a dataset, those of other emotions last."""
        wanted = set(ids)
        chosen = [each for each in (*self.corpus.utterances, *self.corpus.others) if each.id in wanted]
        return Utterances(chosen, self.recordings, tokenise(chosen, self.tokenizer))


def check_folds(settings: Settings, cache: Path) -> None:
    """Check that the corpus can be divided into the folds, before a run with these settings begins.

    Raises:
        TrainingError: the corpus can't be read, or has too few utterances.
    """
    corpus = corpora.load(settings.corpus, Path(settings.root), settings.happiness_policy, cache)
    splits.make(corpus, settings.split, settings.folds, settings.seed)


def load_training_data(settings: Settings, start: Path, cache: Path, console: Console) -> TrainingData:
    """Load a corpus and decode its recordings.

    Args:
        settings: which corpus, and whether recordings that can't be decoded are skipped.
        start: the checkpoint that training starts from; its tokenizer is used.
        cache: directory for tables and decoded recordings.
        console: prints what was kept and what was left out.

    Raises:
        TrainingError: the corpus can't be read, or recordings can't be decoded and are not to be skipped.
        CheckpointError: the checkpoint can't be loaded.
    """
    corpus = corpora.load(settings.corpus, Path(settings.root), settings.happiness_policy, cache)
    if not settings.auxiliary_weight:
        corpus = replace(corpus, others=())
    paths = [each.audio for each in (*corpus.utterances, *corpus.others) if each.audio is not None]
    recordings, unreadable = decode_all(paths, cache)
    if unreadable and not settings.skip_unreadable:
        reasons = "; ".join(f"{path} {reason}" for path, reason in list(unreadable.items())[:3])
        raise TrainingError(
            f"{len(unreadable)} of {len(paths)} recordings of {corpus.name} can't be used ({reasons}); repair or "
            "remove them, or leave them out with --skip-unreadable"
        )
    if unreadable:
        console.print(f"[yellow]skipped {name_some(str(path) for path in unreadable)}: not readable as audio[/]")
        kept = tuple(each for each in corpus.utterances if each.audio not in unreadable)
        others = tuple(each for each in corpus.others if each.audio not in unreadable)
        dropped = dict(corpus.dropped)
        if lost := len(corpus.utterances) - len(kept):
            dropped["recording can't be decoded"] = lost
        corpus = replace(corpus, utterances=kept, dropped=dropped, others=others)
    console.print(account(corpus), highlight=False)
    checkpoint = checkpoints.load(start)
    max_tokens = checkpoint.model.text_encoder.config.max_position_embeddings
    return TrainingData(corpus, recordings, WordPiece(checkpoint.tokenizer, max_tokens))
