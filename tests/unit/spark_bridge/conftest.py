"""Partitions of a group, as many as a test makes, closed at its end."""

import pytest

from tests.unit.engine.conftest import make_group
from tests.unit.spark_bridge.partitions import World
from tests.unit.spark_bridge.survivors import Shared


@pytest.fixture
def make_world(tmp_path):
    """Makes a partition of these groups; of a plain one without."""
    worlds = []

    def make(*groups, **fields):
        place = tmp_path / str(len(worlds))
        worlds.append(World(place, *(groups or (make_group(),)), **fields))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def shared(tmp_path):
    """What applications share that have partitions of one topic."""
    shared = Shared(tmp_path)
    yield shared
    shared.close()
