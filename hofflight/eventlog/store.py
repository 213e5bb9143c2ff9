"""A store directory: where things are in it, and the mark that says that it is one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import orjson

from hofflight.errors import StoreFormat, TopicProblem
from hofflight.eventlog.directory import whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STORE_FORMAT: Final = 1
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)


class Store:
    """Where things are in a store directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mark = path / "hofflight.json"
        self.lock = path / "lock"
        self.registry = path / "registry.sqlite"
        self.log = path / "log"
        self.snapshots = path / "snapshots"
        self.sealed = path / "sealed"
        self.labels = path / "labels"
        self.stored = path / "stored"
        self.online = path / "online"
        self.datasets = path / "datasets"

    def partitions(self) -> dict[int, Store]:
        """The stores of a worker's partitions in it, by number: `0/`, `1/`, ...

        Raises: StoreFormat (HOF-503), one is no store: nobody shall see a part for the whole.
        """
        names = [p.name for p in self.path.iterdir()] if self.path.exists() else []
        numbers = sorted(int(name) for name in names if _NUMBER.fullmatch(name))
        found = {number: Store(self.path / str(number)) for number in numbers}
        for store in found.values():
            store.require(create=False)
        return found

    def require_partitions(self, counts: Mapping[str, int]) -> None:
        """Note over how many partitions each log is spread; refuse another number.

        With another number keys move, and their windows would begin anew where they went. Raises:
        TopicProblem (HOF-513).
        """
        path = self.path / "partitions.json"
        known: dict[str, int] = orjson.loads(path.read_bytes()) if path.exists() else {}
        for stream, count in counts.items():
            if known.setdefault(stream, count) != count:
                msg = f"the topic of {stream} has {count} partitions, it had {known[stream]}"
                raise TopicProblem(msg, hint="make a new version of the group for a new topic")
        with whole_file(path) as fresh:
            fresh.write_bytes(orjson.dumps(known))

    def require(self, *, create: bool) -> None:
        """Check that the directory is a store of this release, making one if it may.

        Raises: StoreFormat (HOF-503).
        """
        if self.mark.exists():
            found = self._format()
            if found != STORE_FORMAT:
                msg = f"the store has format {found}, this release reads {STORE_FORMAT}"
                raise StoreFormat(msg, hint="upgrade hofflight")
            return
        is_empty = not self.path.exists() or not any(self.path.iterdir())
        if not create or not is_empty:
            msg = f"{self.path.name!r} is not a store"
            raise StoreFormat(msg, hint="name an empty or new directory, or a store")
        self.path.mkdir(parents=True, mode=0o700, exist_ok=True)
        with whole_file(self.mark) as fresh:  # a crash must not leave half a mark
            fresh.write_bytes(orjson.dumps({"format": STORE_FORMAT}))

    def _format(self) -> object:
        try:
            mark = orjson.loads(self.mark.read_bytes())
        except orjson.JSONDecodeError:
            mark = None
        if not isinstance(mark, dict) or "format" not in mark:
            msg = f"{self.mark.name} of {self.path.name!r} is damaged"
            raise StoreFormat(msg, hint=f'if it was a store, it held {{"format": {STORE_FORMAT}}}')
        return mark["format"]
