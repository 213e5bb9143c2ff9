"""Sealed history in a restored copy: what was sealed is read there, and sealing goes on from it."""

import shutil

from hofflight.eventlog.backup import Backup
from hofflight.eventlog.local import LogReader
from hofflight.eventlog.store import Store
from hofflight.replay.sealed import SealedLog


def test_what_was_sealed_is_whole_in_a_restored_store(store, open_store, send, replayed, tmp_path):
    """And every row once: those before in sealed files, those after in the log."""
    backup = Backup(str(tmp_path / "copies"), "g.1", 0)
    store.seal()
    backup.save(Store(store.path), 0)
    send(store.app, 100)
    backup.save(Store(store.path), 7)
    expected = replayed(store.history)
    sealed = store.sealed.manifest()

    fresh = Store(tmp_path / "fresh")
    fresh.require(create=True)
    shutil.copy(store.path / "registry.sqlite", fresh.registry)
    assert backup.restore(fresh) == 7
    found = SealedLog(fresh.sealed / "g.1")
    assert found.manifest() == sealed
    assert list(found.orphans(sealed)) == []
    assert LogReader(fresh.log / "g.1").first_number() <= sealed.sealed_to + 1

    again = open_store(name="fresh")
    assert replayed(again.history) == expected
    report = again.seal()
    assert report.records == store.log.last_number() - sealed.sealed_to
    assert replayed(again.history) == expected
