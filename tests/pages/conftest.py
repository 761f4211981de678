"""What the tests of several pages are given."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from phi3kit.core.settings import Settings
from phi3kit.ui.shared import resources
from tests.conftest import Built
from tests.support.in_app import app_on
from tests.support.samples import copy_of_store


@pytest.fixture
def store(built: Built, tmp_path: Path) -> Iterator[Settings]:
    """An app on a store of its own in which both wrappers are logged."""
    settings = copy_of_store(built.settings, tmp_path)
    with app_on(tmp_path):
        yield settings
        resources.kit().close()
