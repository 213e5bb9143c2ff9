"""Entries, and a log of them in a directory of the test's own."""

import pytest

from hofflight.eventlog.local import LocalLog, SyncThread
from hofflight.eventlog.protocol import Entry, EntryMeta
from hofflight.settings import LogSettings


def make_entry(number, *, rows=1, size=40, code="OK"):
    """An entry whose bytes tell its number; heads repeat, as in life."""
    meta = EntryMeta(
        number, 1_000 + number, number.to_bytes(16, "big"), rows, "v", 1, 1, "hash", code
    )
    if code != "OK":
        return Entry(meta, b"head", b"body%d" % number, b"", b"")
    body = (b"body%d." % number) * (1 + size // 8)
    return Entry(meta, b"head", body, b"answer head %d" % (number % 3), body[::-1])


@pytest.fixture
def entry():
    return make_entry


@pytest.fixture
def open_log(tmp_path):
    """Opens the test's log, and closes what is still open at the end."""
    opened = []

    def open_log(*, segment_bytes=None, directory=tmp_path / "log", **settings):
        chosen = LogSettings(**settings)
        if segment_bytes is not None:  # below what a user may set: tests rotate often
            chosen = chosen.model_copy(update={"segment_bytes_max": segment_bytes})
        sync = SyncThread(chosen)
        log = LocalLog(directory, sync, chosen)
        opened.append((log, sync))
        return log

    yield open_log
    for log, sync in opened:
        sync.stop()
        log.close()


@pytest.fixture
def host(tmp_path):
    """A store with a log that is copied."""
    from tests.unit.eventlog.copies import Host  # which makes its entries by what is above

    host = Host(tmp_path / "host", tmp_path / "copies")
    yield host
    host.close()
