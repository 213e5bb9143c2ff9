"""Whose partition it is: a lease for each, in the registry that all applications share.

A lease belongs to a store, not to a process: an application that starts again with its store has
its partitions at once. Another one waits until a lease has run out, and longer where it only steps
in. Who cannot renew a lease has lost it when its time is over: maybe others reach the registry.
"""

from __future__ import annotations

import secrets
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from hofflight.errors import RegistryUnavailable, StoreFormat
from hofflight.eventlog.directory import whole_file
from hofflight.observe.events import Events

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hofflight.clock import Clock
    from hofflight.features.leases import Leases
    from hofflight.spark_bridge.executor_side import Place

_events = Events("hofflight.spark")
# In the time of a lease: one may fail, the next one is in time.
_RENEWALS: Final = 3
# Longer than Spark takes to start, or a large copy to come.
_HANGS_S: Final = 600.0
_SOON_S: Final = 1.0


class Holder(NamedTuple):
    """Who holds: a name for people, and a number that tells it from all others."""

    instance: str
    epoch: int


def holder_of(store: Path) -> Holder:
    """The holder that a store is, at each of its starts: its number is kept in it."""
    path = store / "holder.json"
    if not path.exists():
        with whole_file(path) as fresh:
            fresh.write_bytes(orjson.dumps({"epoch": secrets.randbits(62)}))
    try:
        epoch = orjson.loads(path.read_bytes())["epoch"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        epoch = None
    if not isinstance(epoch, int) or not 0 <= epoch < 1 << 63:
        msg = f"{path.name} of {store.name!r} is damaged"
        raise StoreFormat(msg, hint="delete it: the store is another holder of partitions then")
    return Holder(f"{socket.gethostname()}:{store.resolve()}", epoch)


class Claims:
    """The partitions that are ours. Thread: one; `kept` has another one, which renews.

    takeover_s: how long a partition is nobody's before it is ours; None: we take none of others.
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
        self._until_s: dict[Place, float] = {}  # of what is held; by our clock
        self._free_since: dict[Place, float] = {}
        self._looked_s = self._seen_s = clock.monotonic_s()

    def claim(self, place: Place) -> bool:
        """Take a partition where nobody else has it. Raises: RegistryUnavailable (HOF-515)."""
        self._free_since.pop(place, None)
        began_s = self._seen_s = self._clock.monotonic_s()
        if not self._acquired(place):
            return False
        with self._lock:
            self._until_s[place] = began_s + self.ttl_s
        # Where one was free there may be more: soon, and yet in turns with other applications.
        self._looked_s = min(self._looked_s, began_s + _SOON_S - self.ttl_s / _RENEWALS)
        return True

    def drop(self, place: Place) -> None:
        """It is not ours any more, whosever it is now."""
        with self._lock:
            self._until_s.pop(place, None)

    def release(self, places: Sequence[Place]) -> None:
        """Give back at once those of these that are ours."""
        for place in places:
            with self._lock:
                is_ours = self._until_s.pop(place, None) is not None
            if is_ours:
                with suppress(RegistryUnavailable):  # it runs out by itself
                    self._leases.release(_name(place), self._holder.epoch)

    def holder(self, place: Place) -> str:
        """Who has a partition, for people. Raises: RegistryUnavailable (HOF-515)."""
        found = [lease for lease in self._leases.held() if lease.topic == _name(place)]
        return found[0].instance if found else "nobody"

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew what is ours until the end of the block, whatever this thread does in it.

        Unless it hangs: a partition that nobody looks after is for others to take.
        """
        done = threading.Event()

        def keep() -> None:
            while not done.wait(self.ttl_s / _RENEWALS):
                if self._clock.monotonic_s() - self._seen_s < _HANGS_S:
                    self.renew()

        thread = threading.Thread(target=keep, name="hof-leases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def renew(self) -> None:
        """Hold for longer what is ours. What another one took meanwhile is lost."""
        for place, until_s in list(self._until_s.items()):
            began_s = self._clock.monotonic_s()
            if began_s >= until_s:
                continue  # lost, until it is dropped: another one may have worked it meanwhile
            try:
                is_ours = self._acquired(place)
            except RegistryUnavailable as error:
                _events.warning("lease_not_renewed", topic=place.topic, error=error.message)
                return
            with self._lock:
                if place in self._until_s:
                    self._until_s[place] = began_s + self.ttl_s if is_ours else began_s

    def lost(self) -> list[Place]:
        """What was ours and is not: taken, or not renewed in time. `drop` that."""
        now_s = self._seen_s = self._clock.monotonic_s()
        with self._lock:
            return [place for place, until_s in self._until_s.items() if now_s >= until_s]

    def free(self, wanted: Sequence[Place], others: Sequence[Place]) -> list[Place]:
        """Those that we may take: wanted ones that are nobody's, others that were for long enough.

        It looks three times in the time of a lease; none while the registry is away.
        """
        now_s = self._clock.monotonic_s()
        places = [p for p in dict.fromkeys([*wanted, *others]) if p not in self._until_s]
        if not places or now_s < self._looked_s + self.ttl_s / _RENEWALS:
            return []
        self._looked_s = now_s
        try:
            held = {lease.topic for lease in self._leases.held()}
        except RegistryUnavailable:
            self._free_since.clear()  # nobody could renew: all of them begin anew
            return []
        free = [place for place in places if _name(place) not in held]
        self._free_since = {place: self._free_since.get(place, now_s) for place in free}
        patience_s = self._takeover_s or 0.0
        return [p for p in free if p in wanted or now_s - self._free_since[p] > patience_s]

    def _acquired(self, place: Place) -> bool:
        # The first time and to renew: a registry that was restored may not know of us.
        wanted = _name(place)
        return self._leases.acquire([wanted], *self._holder, self._ttl_us) == wanted


def _name(place: Place) -> str:
    return f"{place.topic}/{place.number}"
