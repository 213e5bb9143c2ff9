"""Whose partition it is: a lease for each, in the registry that all applications share.

A lease belongs to a folder on a host, not to a process: an application that starts again with its
store has its partitions at once. Another one waits until a lease has run out, and longer where it
only steps in. While the registry is away nobody loses anything: nobody else can take it then.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from hofflight.errors import RegistryUnavailable
from hofflight.observe.events import Events

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hofflight.clock import Clock
    from hofflight.features.leases import Lease
    from hofflight.spark_bridge.executor_side import Place

_events = Events("hofflight.spark")
# Two renewals may fail before a lease is over.
_RENEWALS: Final = 3


class Leases(Protocol):
    """The part of the registry's leases that claims need; as in `features.leases`."""

    def acquire(self, topics: Sequence[str], instance: str, epoch: int, ttl_us: int) -> str | None:
        """Take the first that nobody else holds; whoever has it already holds it for longer."""
        ...

    def release(self, topic: str, epoch: int) -> None:
        """Give it back."""
        ...

    def held(self) -> list[Lease]:
        """Those that have not run out."""
        ...


class Holder(NamedTuple):
    """Who holds: a name for people, and a number that tells it from all others."""

    instance: str
    epoch: int


def holder_of(store: Path) -> Holder:
    """The holder that a store on this host is, at each of its starts."""
    instance = f"{socket.gethostname()}:{store.resolve()}"
    digest = hashlib.blake2b(instance.encode(), digest_size=8).digest()
    return Holder(instance, int.from_bytes(digest) >> 2)  # below 2**62


class Claims:
    """The partitions that are ours. Thread: one; `kept` has one of its own beside it.

    takeover_s: how long a partition is nobody's before it is ours; None: we take none.
    """

    def __init__(
        self, leases: Leases, holder: Holder, ttl_ms: int, takeover_s: float | None, clock: Clock
    ) -> None:
        self._leases = leases
        self._holder = holder
        self._ttl_us = ttl_ms * 1_000
        self.ttl_s = ttl_ms / 1e3
        self._takeover_s = takeover_s
        self.takes_over = takeover_s is not None
        self._clock = clock
        self._lock = threading.Lock()
        self._held: list[Place] = []
        self._lost: list[Place] = []
        self._free_since: dict[Place, float] = {}
        self._renew_s = self._look_s = clock.monotonic_s()

    def claim(self, place: Place) -> bool:
        """Take a partition where nobody else has it. Raises: RegistryUnavailable (HOF-515)."""
        self._free_since.pop(place, None)
        with self._lock:
            if not self._acquired(place):
                return False
            self._held.append(place)
            return True

    def drop(self, place: Place) -> None:
        """It is not ours any more, whosever it is now."""
        with self._lock:
            self._held = [held for held in self._held if held != place]
            self._lost = [lost for lost in self._lost if lost != place]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Hold what is ours while this thread starts Spark, restores state or copies it."""
        done = threading.Event()

        def keep() -> None:
            while not done.wait(self.ttl_s / _RENEWALS / 2):
                self.lost()

        thread = threading.Thread(target=keep, name="hof-leases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def holder(self, place: Place) -> str:
        """Who has a partition, for people. Raises: RegistryUnavailable (HOF-515)."""
        found = [lease for lease in self._leases.held() if lease.topic == _name(place)]
        return found[0].instance if found else "nobody"

    def lost(self) -> list[Place]:
        """Hold for longer what is ours; gives what another one took, until `drop`."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if now_s >= self._renew_s:
                self._renew_s = now_s + self.ttl_s / _RENEWALS
                self._renew()
            return list(self._lost)

    def _renew(self) -> None:
        for place in self._held:
            try:
                is_ours = self._acquired(place)
            except RegistryUnavailable as error:
                _events.warning("lease_not_renewed", topic=place.topic, error=error.message)
                break
            if not is_ours:
                _events.error("partition_lost", topic=place.topic, partition=place.number)
                self._lost.append(place)
        self._held = [place for place in self._held if place not in self._lost]

    def abandoned(self, places: Sequence[Place]) -> list[Place]:
        """Those of the places of others that were nobody's for so long that we may take them."""
        others = [place for place in places if place not in self._held]
        now_s = self._clock.monotonic_s()
        if self._takeover_s is None or not others or now_s < self._look_s:
            return []
        self._look_s = now_s + self.ttl_s / _RENEWALS
        try:
            held = {lease.topic for lease in self._leases.held()}
        except RegistryUnavailable:
            self._free_since.clear()  # nobody could renew: all of them begin anew
            return []
        free = [place for place in others if _name(place) not in held]
        self._free_since = {place: self._free_since.get(place, now_s) for place in free}
        return [p for p, since_s in self._free_since.items() if now_s - since_s > self._takeover_s]

    def release(self, places: Sequence[Place]) -> None:
        """Give back at once those of these that are ours."""
        with self._lock:
            for place in self._held:
                if place in places:
                    try:
                        self._leases.release(_name(place), self._holder.epoch)
                    except RegistryUnavailable:
                        break  # they run out by themselves
            self._held = [place for place in self._held if place not in places]

    def _acquired(self, place: Place) -> bool:
        # The first time and to renew: a registry that was restored may not know of us.
        wanted = _name(place)
        return self._leases.acquire([wanted], *self._holder, self._ttl_us) == wanted


def _name(place: Place) -> str:
    return f"{place.topic}/{place.number}"
