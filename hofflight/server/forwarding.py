"""A Worker before another one: what it does not do itself is the other's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from hofflight.eventlog.protocol import Request, Served, Worker

W = TypeVar("W", bound="Worker")


class Forwarding(Generic[W]):
    """All of the Worker protocol but `submit`."""

    def __init__(self, worker: W) -> None:
        self.worker = worker

    def views(self) -> list[Served]:
        """Every view that can be asked for."""
        return self.worker.views()

    def bind(self, view: str, version: int | None) -> Served:
        """The view of that name; also of a dataset's or a model's."""
        return self.worker.bind(view, version)

    def check(self, request: Request) -> None:
        """Refuse what would be refused before any of it counts."""
        self.worker.check(request)

    def remembers(self, request: Request) -> bool:
        """Whether it is known here that a request of this id was answered before."""
        return self.worker.remembers(request)
