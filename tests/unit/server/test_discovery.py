"""What a server says of how it spreads rows, and where it says nothing."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from hofflight.eventlog.protocol import Served
from hofflight.server.discovery import describe, flight_info

COLUMNS = pa.schema([("card", pa.int64()), ("shop", pa.string())])
PLAIN = Served("v", 1, "g", 1, "c0de", COLUMNS, pa.schema([("g.n", pa.int64())]))
SPREAD = replace(PLAIN, partition_key=("card", "shop"), partitions=8)


def told(served):
    """What flight information and `describe` say of partitions; they must agree."""
    info = json.loads(flight_info(served, [served]).app_metadata)
    (described,) = json.loads(describe(b"", [served]))["views"]
    found = [
        {name: document[name] for name in ("partition_key", "partitions") if name in document}
        for document in (info, described)
    ]
    assert found[0] == found[1]
    return found[0]


def test_a_view_whose_rows_are_spread_says_by_which_columns_and_how_far():
    assert told(SPREAD) == {"partition_key": ["card", "shop"], "partitions": 8}


def test_a_view_whose_rows_are_not_spread_says_nothing():
    """The absence is the answer: an embedded server does not care."""
    assert told(PLAIN) == {}


class Named:
    """As much of a stored group as is said of it."""

    name, version = "customer", 1


@pytest.mark.parametrize("joined", [{"parts": (SPREAD, SPREAD)}, {"stored": (Named,)}])
def test_a_joined_view_says_nothing(joined):
    """Its groups may spread by different keys, so no hash would speak for all."""
    assert told(replace(SPREAD, **joined)) == {}
