"""Fixtures of the tests of training."""

import pytest
from iemocap_release import Release, make


@pytest.fixture(scope="session")
def iemocap_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A tiny IEMOCAP with speech. Tests leave it as it is."""
    return make(tmp_path_factory.mktemp("iemocap"))
