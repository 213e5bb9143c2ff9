"""The log of one joined view: what its answers were joined from, and which request got which."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from hofflight.errors import HofError, IdReused, Indefinite, StorageFailed, by_code
from hofflight.eventlog.ids import RequestIds
from hofflight.eventlog.joins import decode_joins, encode_joins
from hofflight.eventlog.protocol import Entry, EntryMeta
from hofflight.wire.envelope import OK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hofflight.eventlog.joins import JoinRecord
    from hofflight.eventlog.protocol import EventLog, Request
    from hofflight.settings import EngineSettings


class JoinLog:
    """An event log of join records, and the ids that are remembered. Thread-safe."""

    def __init__(self, log: EventLog, settings: EngineSettings) -> None:
        self.log = log
        self.ids = RequestIds(settings)
        self._lock = threading.Lock()
        for position, meta in log.read_meta():
            self.ids.add(meta.id, position, number=meta.number, arrival_us=meta.arrival_us)

    def recorded(
        self, request: Request, keys: Sequence[list[bytes | None]]
    ) -> list[JoinRecord] | None:
        """What the answer to a request of this id was joined from.

        `keys`: of each row, where its stored rows are.

        Raises: IdReused (HOF-208), it had other keys; or the error that it got the first time.
        """
        position = self.ids.find(request.id)
        if position is None:
            return None
        entry = self.log.entry_at(position)
        records = decode_joins(entry.head, entry.body)
        require_same_keys(request.id, records, keys)
        if entry.meta.error:
            raise by_code().get(entry.meta.code, HofError)(entry.meta.error)
        return records

    def add(
        self, request: Request, records: Sequence[JoinRecord], error: HofError | None = None
    ) -> bool:
        """Keep what an answer was joined from; False if another one of this id was first.

        Raises: StorageFailed (HOF-304); Indefinite (HOF-400), its rows were counted already.
        """
        head, body = encode_joins(records)
        served, arrival_us = request.served, records[0].asked_us
        code, text = (OK, "") if error is None else (error.code, error.message)
        with self._lock:
            if self.ids.find(request.id) is not None:
                return False
            number = self.log.last_number() + 1
            about = EntryMeta(
                number, arrival_us, request.id, len(records), served.view, served.version,
                served.version, served.code_hash, code, answered=False, error=text,
            )  # fmt: skip
            try:
                (position,) = self.log.append([Entry(about, head, body, b"", b"")])
            except StorageFailed as failed:
                if not served.parts:
                    raise
                msg = f"the rows were counted, what was looked up is not kept: {failed.message}"
                raise Indefinite(msg, hint="ask again with the same request id") from failed
            self.ids.add(request.id, position, number=number, arrival_us=arrival_us)
        return True


def require_same_keys(
    request_id: bytes, records: Sequence[JoinRecord], keys: Sequence[list[bytes | None]]
) -> None:
    """Refuse an id that came with other keys before.

    Raises: IdReused (HOF-208).
    """
    if [record.keys for record in records] != keys:
        msg = f"request id {request_id.hex()} was used for other keys"
        raise IdReused(msg, hint="make a new id for every new event; reuse it only to retry")
