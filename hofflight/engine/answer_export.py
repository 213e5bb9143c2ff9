"""What a partition's log has answered, sent on to the topics of its features, behind the answers.

It follows the log and keeps nothing: how far it came is said by the last record of each topic. A
killed worker may send some rows twice, and none is left out before the log forgets it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from hofflight import limits
from hofflight.observe.events import Events

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hofflight.eventlog.protocol import Entry, Produce
    from hofflight.wire.kafka_record import Headers

_events = Events("hofflight.worker")
_PERIOD_S: Final = 1.0
_ENTRIES_MAX: Final = 1_000
_BYTES_MAX: Final = 4 * limits.MIB


class Followed(Protocol):
    """The part of an event log that is followed."""

    def read_on(self, position: int = 0) -> Iterator[tuple[int, Entry]]:
        """(position, entry) of every entry behind the one at a position; 0: of all."""
        ...


class Encoder(Protocol):
    """Makes records of one group version's entries."""

    def encode(self, entries: Sequence[Entry]) -> Iterator[tuple[bytes, Headers]]:
        """Value and headers of each."""
        ...


class Outlet(NamedTuple):
    """Where a group version's answers go. begin: the first offset that may not be there."""

    topic: str
    encoder: Encoder
    begin: int


def next_entries(log: Followed, position: int) -> tuple[list[tuple[int, Entry]], bool]:
    """Some entries behind a position, and whether there may be more."""
    found: list[tuple[int, Entry]] = []
    size = 0
    for at, entry in log.read_on(position):
        found.append((at, entry))
        size += len(entry.answer_body)
        if len(found) >= _ENTRIES_MAX or size > _BYTES_MAX:
            return found, True
    return found, False


def records_of(
    entries: Sequence[Entry], outlets: Mapping[int, Outlet]
) -> list[tuple[str, bytes, Headers]]:
    """Topic, value and headers of the records with what these entries answered."""
    mine: defaultdict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        outlet = outlets.get(entry.meta.group_version)
        if outlet is not None and entry.meta.offset >= outlet.begin:
            mine[entry.meta.group_version].append(entry)
    return [
        (outlets[version].topic, *record)
        for version, some in mine.items()
        for record in outlets[version].encoder.encode(some)
    ]


class AnswerExport:
    """Follows one log. Thread: one event loop's; reading and encoding are done beside it.

    outlets: by group version. number: the last entry of the log that is in its topic.
    """

    def __init__(
        self, log: Followed, partition: int, outlets: Mapping[int, Outlet], produce: Produce
    ) -> None:
        self._log = log
        self._partition = partition
        self._outlets = outlets
        self._produce = produce
        self._position = 0
        self.number = 0
        self.rows = 0

    async def run(self) -> None:
        """Until cancelled: send what came, once a second."""
        while True:
            await asyncio.sleep(_PERIOD_S)
            try:
                await self.catch_up()
            except Exception as error:  # noqa: BLE001 brokers come and go: it tries again
                _events.warning("answers_not_exported", partition=self._partition,
                                error=f"{type(error).__name__}: {error}")  # fmt: skip

    async def catch_up(self) -> None:
        """Send everything that is in the log now.

        Raises: LogCorrupt (HOF-502); whatever the brokers say.
        """
        with contextlib.suppress(FileNotFoundError):  # trimmed just now
            while await self._step():
                pass

    async def _step(self) -> bool:
        """Send some entries; whether there may be more."""
        found, _ = await asyncio.to_thread(next_entries, self._log, self._position)
        if not found:
            return False
        entries = [entry for _, entry in found]
        records = await asyncio.to_thread(records_of, entries, self._outlets)
        for topic, value, headers in records:
            await self._produce(topic, self._partition, value, headers)
        self._position, last = found[-1]
        self.number = last.meta.number
        self.rows += sum(entry.meta.rows for entry in entries)
        return True
