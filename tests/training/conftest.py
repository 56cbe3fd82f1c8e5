"""Fixtures of the tests of training."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from iemocap_release import Release, make

from emotion.checkpoint import create
from tests.conftest import Once
from tests.narrow import narrow_vggish, write_bert


@pytest.fixture
def narrow() -> Iterator[None]:
    """Make VGGish narrow in this process, to load `small_checkpoint`."""
    with narrow_vggish():
        yield


@pytest.fixture(scope="session")
def small_checkpoint(once: Once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh checkpoint with a narrow VGGish and a BERT of two layers. Tests leave it as it is."""

    def make_checkpoint(directory: Path) -> None:
        with narrow_vggish():
            create(directory, str(write_bert(tmp_path_factory.mktemp("bert"))), vggish=None, seed=0)

    return once("small-checkpoint", make_checkpoint)


@pytest.fixture(scope="session")
def iemocap_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A tiny IEMOCAP with speech. Tests leave it as it is."""
    return make(tmp_path_factory.mktemp("iemocap"))
