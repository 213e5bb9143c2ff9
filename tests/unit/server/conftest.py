"""A store with joined views, opened and opened again as often as a test likes."""

import pytest

from tests.unit.engine.conftest import Stores
from tests.unit.server.joined_views import Joins


@pytest.fixture
def stores(tmp_path):
    """A store in a directory of the test's own."""
    stores = Stores(tmp_path)
    yield stores
    for app in stores.opened:
        app.close()


@pytest.fixture
def joins(stores):
    """Opens it with the groups and views of `joined_views`."""
    joins = Joins(stores)
    yield joins
    joins.close()
