"""What the online store holds under a key, and which load counts: whole loads or nothing of them.

A value is the newest row of its key, behind it the row that it replaced. While a load is written
its rows are there already, but nobody sees them: a reader takes the newest row of a *committed*
load. So all rows of a load appear in one moment, and a load that was broken off never does.
Loads of one group come one after the other, so two rows are enough.

Which loads are committed stands under one key for all groups; one request reads it with its rows.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from hofflight.errors import StoredUnreadable
from hofflight.online.packed import STAMP_BYTES, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = 1
COMMITS_KEY: Final = b"commits"
_LENGTH: Final = struct.Struct("<BI")
_ROW_AT: Final = _LENGTH.size
# The same, and the stamp of the row that follows.
_SLOT: Final = struct.Struct("<BIqq")


class Commits(msgspec.Struct, frozen=True):
    """The committed loads of one group: `first` to `last`, without those that were broken off.

    Before `first` are loads of a history that is gone.
    """

    last: int = 0
    voided: frozenset[int] = frozenset()
    first: int = 1

    def has(self, load: int) -> bool:
        """Whether rows of a load count."""
        return self.first <= load <= self.last and load not in self.voided


class _Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of `COMMITS_KEY`. groups: by `name.version`."""

    v: int
    groups: dict[str, Commits]


def row_key(group: str, key: bytes) -> bytes:
    """Where the row of a key is; `group`: `name.version`. No group's keys begin like another's."""
    name = group.encode()
    return b"r" + bytes((len(name),)) + name + key


def key_prefix(group: str) -> bytes:
    """What the keys of a group begin with."""
    return row_key(group, b"")


@lru_cache(maxsize=64)
def read_commits(page: bytes) -> Mapping[str, Commits]:
    """The committed loads of each group; equal bytes are read once.

    Raises: StoredUnreadable (HOF-511).
    """
    try:
        found = msgspec.msgpack.decode(page, type=_Page)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoredUnreadable(f"the list of loads does not decode: {error}") from None
    if found.v != FORMAT:
        msg = f"the list of loads has format {found.v}, this release reads {FORMAT}"
        raise StoredUnreadable(msg, hint="upgrade hofflight")
    return found.groups


def write_commits(groups: Mapping[str, Commits]) -> bytes:
    """The value of `COMMITS_KEY`."""
    return msgspec.msgpack.encode(_Page(FORMAT, dict(groups)))


def newest_row(value: bytes, commits: Commits) -> bytes | None:
    """The newest row of a committed load; None where there is none.

    Raises: StoredUnreadable (HOF-511), the value is none of ours.
    """
    try:
        version, size, _, load = _SLOT.unpack_from(value)
        end = _ROW_AT + size
        if version != FORMAT or end > len(value) or size < STAMP_BYTES:
            raise StoredUnreadable(f"a stored value of {len(value)} bytes is cut, or not ours")
        if commits.has(load):
            return value[_ROW_AT:end]
        before = value[end:]
        return before if before and commits.has(stamp(before)[1]) else None
    except struct.error:
        raise StoredUnreadable(f"a stored value of {len(value)} bytes is cut") from None


def replaced(value: bytes | None, row: bytes, commits: Commits) -> bytes | None:
    """A key's value once a load brings a row for it; None where it stays as it is.

    `commits`: the loads before this one. A row older than the committed one changes nothing; with
    the same event time the later load wins. What cannot be read is replaced.
    """
    try:
        before = newest_row(value, commits) if value is not None else None
        if before is not None and stamp(row) <= stamp(before):
            is_same_load = stamp(row) == stamp(before) and row != before
            # The row of that very load, but damaged: it is written over.
            return _LENGTH.pack(FORMAT, len(row)) + row if is_same_load else None
    except (StoredUnreadable, struct.error):
        before = None
    return _LENGTH.pack(FORMAT, len(row)) + row + (before or b"")
