"""Fixtures for the tests of training."""

import pytest
from iemocap_release import Release, make


@pytest.fixture(scope="session")
def iemocap_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Return a tiny synthetic IEMOCAP release, which tests must not change."""
    return make(tmp_path_factory.mktemp("iemocap"))
