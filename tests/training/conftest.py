"""Fixtures for the tests of training."""

from collections.abc import Iterator

import pytest
from iemocap_release import Release, make

from tests.narrow import narrow_vggish


@pytest.fixture
def narrow() -> Iterator[None]:
    """Make VGGish narrow in this process, to load `small_checkpoint`."""
    with narrow_vggish():
        yield


@pytest.fixture(scope="session")
def iemocap_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Return a tiny synthetic IEMOCAP release, which tests must not change."""
    return make(tmp_path_factory.mktemp("iemocap"))
