"""Who holds a partition: a store, wherever it is and however its hosts are called."""

import shutil

import pytest

from hofflight.errors import StoreFormat
from hofflight.spark_bridge.claims import Holder, holder_of
from tests.unit.spark_bridge.survivors import PLACES

P0, _, _ = PLACES


def test_a_holder_is_a_store_at_each_of_its_starts(tmp_path):
    """By whatever way it is named; its number fits into a database's."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = [holder_of(tmp_path / name) for name in ("a", "b/../a", "link", "b")]
    assert found[0] == found[1] == found[2]
    assert found[3].epoch != found[0].epoch
    assert 0 <= found[0].epoch < 2**62
    assert found[3].instance.endswith(f":{tmp_path}/b")


def test_two_hosts_that_name_their_stores_alike_are_two_holders(tmp_path):
    """As `/var/lib/hofflight` on each: containers may even have one host name."""
    path = tmp_path / "store"
    found = []
    for host in ("first", "second"):
        path.mkdir()
        found.append(holder_of(path))
        path.rename(tmp_path / host)
    assert found[0].instance == found[1].instance
    assert found[0].epoch != found[1].epoch


def test_a_store_that_moves_to_another_host_is_the_same_holder(tmp_path, shared, monkeypatch):
    """On its disk, with its leases: its partitions are its own there at once."""
    mine = shared.claims("a")
    mine.claim(P0)
    shutil.move(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    moved = shared.claims("b")
    assert moved.claim(P0)
    assert moved.holder(P0) == f"another:{tmp_path}/b"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"1", b"{}", b'{"epoch":null}', b'{"epoch":"1"}', b'{"epoch":1.5}',
     b'{"epoch":-1}', b'{"epoch":9223372036854775808}', b"\xff"],
)  # fmt: skip
def test_a_damaged_number_of_a_holder_is_said(tmp_path, data):
    """With another one, a store would wait for itself. Which is what deleting it means."""
    path = tmp_path / "holder.json"
    path.write_bytes(data)
    with pytest.raises(StoreFormat, match=r"HOF-503: holder.json of .* is damaged.*delete it"):
        holder_of(tmp_path)
    assert path.read_bytes() == data
    path.unlink()
    assert holder_of(tmp_path) == holder_of(tmp_path)


@pytest.mark.parametrize("epoch", [0, 2**63 - 1])
def test_every_number_that_a_database_takes_is_one_of_a_holder(tmp_path, shared, epoch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "holder.json").write_text(f'{{"epoch":{epoch}}}')
    assert holder_of(tmp_path / "a") == Holder(holder_of(tmp_path / "a").instance, epoch)
    assert shared.claims("a").claim(P0)
