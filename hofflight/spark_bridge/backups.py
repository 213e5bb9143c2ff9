"""Copies of the partitions' logs, taken in the background while others write them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from hofflight.errors import HofError
from hofflight.observe.events import Events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.spark_bridge.executor_side import Place

_events = Events("hofflight.spark")
PERIOD_S: Final = 60.0


class Backups:
    """Copies each partition that is ours, once a minute and at the end. `save` copies one.

    A copy that fails costs nothing but itself: the next one has all.
    """

    def __init__(
        self, places: Callable[[], Sequence[Place]], save: Callable[[Place], int],
        period_s: float = PERIOD_S,
    ) -> None:  # fmt: skip
        self._places = places
        self._save = save
        self._period_s = period_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hof-backup", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Copy for the last time, and end."""
        self._stopping.set()
        self._thread.join()
        self._save_all()

    def _run(self) -> None:
        while not self._stopping.wait(self._period_s):
            self._save_all()

    def _save_all(self) -> None:
        for place in list(self._places()):
            at = {"topic": place.topic, "partition": place.number}
            try:
                copied = self._save(place)
            except HofError as error:
                _events.warning("backup_failed", **at, error=error.message)
            except Exception as error:  # noqa: BLE001 a full disk has no room for links; serving goes on
                _events.warning("backup_failed", **at, error=str(error))
            else:
                _events.debug("backed_up", **at, bytes=copied)
