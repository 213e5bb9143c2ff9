"""Reply topics leased from a fixed pool: at any time at most one server holds each.

A server takes a topic for some seconds and renews it before they are over. One that dies says
nothing: its topic is free when its time has run out, and whoever takes it brings another epoch.
Partitions of input topics are leased alike, by the applications that work them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hofflight.features.database import Database

# One statement, so that of many who ask at once one gets it. `leases` is who has it, or had it; who
# asks again, since the answer was lost, has it already.
_ACQUIRE: Final = """
INSERT INTO leases VALUES (?, ?, ?, ?) ON CONFLICT (topic) DO UPDATE
SET instance = excluded.instance, epoch = excluded.epoch, expires_us = excluded.expires_us
WHERE leases.expires_us <= ? OR leases.epoch = excluded.epoch
"""


class Lease(NamedTuple):
    """Who holds a topic until when, by the database's clock."""

    topic: str
    instance: str
    epoch: int
    expires_us: int


class Leases:
    """The leases that a registry's database holds, beside other processes and machines.

    epoch: a random integer below 2**63, another one for each start of a server: it tells two lives
    of one instance apart. Raises: RegistryUnavailable (HOF-515), from every call; whoever cannot
    renew a lease has to take it for lost when its time is over.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self, topics: Sequence[str], instance: str, epoch: int, ttl_us: int) -> str | None:
        """Take the first topic that nobody holds, or whose lease ran out; None: all are held."""
        for topic in topics:
            now_us = self._database.now_us()
            lease = Lease(topic, instance, epoch, now_us + ttl_us)
            if self._database.change(_ACQUIRE, *lease, now_us):
                return topic
        return None

    def renew(self, topic: str, epoch: int, ttl_us: int) -> bool:
        """Hold it for `ttl_us` from now on; False: it is no longer ours.

        A lease that ran out and that nobody took is ours still.
        """
        statement = "UPDATE leases SET expires_us = ? WHERE topic = ? AND epoch = ?"
        expires_us = self._database.now_us() + ttl_us
        return self._database.change(statement, expires_us, topic, epoch) == 1

    def release(self, topic: str, epoch: int) -> None:
        """Give it back at once, where it is ours."""
        self._database.change("DELETE FROM leases WHERE topic = ? AND epoch = ?", topic, epoch)

    def held(self) -> list[Lease]:
        """The leases that have not run out, by topic."""
        query = "SELECT topic, instance, epoch, expires_us FROM leases WHERE expires_us > ?"
        rows = self._database.rows(f"{query} ORDER BY topic", self._database.now_us())
        return [Lease(*row) for row in rows]
