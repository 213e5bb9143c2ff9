"""`connect` and `connect_async`: the verbs of a server, blocking or awaited."""

from __future__ import annotations

import random
import time
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, Self

from hofflight.client.address import parse_address
from hofflight.client.offline import DEADLINE_MS, label_body, parity_of, ticket_of, verify_body
from hofflight.client.session import Session
from hofflight.client.steps import drive, drive_async
from hofflight.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from uuid import UUID

    import pyarrow as pa

    from hofflight.client.views import ViewInfo
    from hofflight.wire.parity import Parity
    from hofflight.wire.rows import Rows
    from hofflight.wire.vector import Vector


def connect(
    url: str,
    *,
    token: str | None = None,
    tls_roots: str | Path | bytes | None = None,
    deadline_ms: int = 2_000,
) -> Client:
    """A client of the server at a url; the first verb makes the connection.

    Args:
        url: `grpc://host:port`, `grpc+tls://host:port` or `grpc+unix:///path`.
        token: the bearer token that the server asks for.
        tls_roots: PEM certificates to trust (bytes, or a file); the system's without.
        deadline_ms: of each verb, retries included, where it gets none of its own.

    Raises:
        SettingsError: HOF-601.
    """
    return Client(_session(url, token, tls_roots, deadline_ms))


def connect_async(
    url: str,
    *,
    token: str | None = None,
    tls_roots: str | Path | bytes | None = None,
    deadline_ms: int = 2_000,
) -> AsyncClient:
    """The same for asyncio; arguments as for `connect`.

    Raises:
        SettingsError: HOF-601.
    """
    return AsyncClient(_session(url, token, tls_roots, deadline_ms))


def _session(
    url: str, token: str | None, tls_roots: str | Path | bytes | None, deadline_ms: int
) -> Session:
    address = parse_address(url, token, tls_roots)
    # Paid here and not within the first deadline: gRPC, and pandas (1 s or more where it is
    # installed), which pyarrow loads with the first value that it converts.
    import pyarrow as pa
    import pyarrow.flight

    pa.array([0])
    return Session(address, deadline_ms, time.monotonic, random.Random())


class _Remote:
    """What both clients share: a session that ends with them, and the verbs that need code."""

    def __init__(self, session: Session) -> None:
        self._session = session
        # Also when a program ends without `close`: a thread inside gRPC would outlive Python.
        self._finalizer = weakref.finalize(self, session.close)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._session.address.url}>"

    def register(self, *_: object, **__: object) -> NoReturn:
        """Refused: a definition is code, and code does not travel.

        Raises:
            NotSupported: HOF-213.
        """
        raise NotSupported("register needs code", hint="run: hof register module:path")

    def apply(self, *_: object, **__: object) -> NoReturn:
        """Refused: where a group runs is the operator's choice.

        Raises:
            NotSupported: HOF-213.
        """
        raise NotSupported("apply needs code", hint="run: hof serve --modules module")


class Client(_Remote):
    """A server's verbs. Any thread may call; all threads share one stream a view.

    Errors are HofError; those of `vector` and `ingest` carry `request_id`, the 16 bytes to ask
    again with after an indefinite one (HOF-4xx).
    """

    def vector(
        self,
        view: str,
        rows: Rows | None = None,
        *,
        keys: Mapping[str, Any] | None = None,
        version: int | None = None,
        deadline_ms: int | None = None,
        store: bool = True,
        request_id: bytes | UUID | None = None,
    ) -> Vector:
        """Send raw rows and get their feature vectors, one a row, in order.

        Args:
            view: its name, or a feature group's for all of that group's columns, or that of a
                training dataset or a model: the vector it was trained on.
            rows: a dict, a list of dicts, a RecordBatch, a Table, a pandas or a polars frame; None
                for a view of stored groups alone.
            keys: of stored groups, by column: a value for all rows, or a list with one for each.
            version: of the view; the newest when the stream was opened without.
            deadline_ms: until when an answer is of use, retries included.
            store: False answers each row as if it came next and keeps nothing of it.
            request_id: 16 bytes that name this request; the same id and rows count once.

        Raises:
            BadRequest: HOF-2xx, definite; the same rows will fail again.
            Refused: HOF-3xx, until the deadline; nothing was counted.
            Indefinite: HOF-4xx; the same request_id and rows find out, and count once.
        """
        return drive(
            self._session.vector(
                view, rows, keys=keys, version=version, deadline_ms=deadline_ms, store=store,
                request_id=request_id,
            )
        )  # fmt: skip

    def ingest(self, group: str, rows: Rows, *, request_id: bytes | UUID | None = None) -> int:
        """Send rows whose vectors nobody needs (backfill, warm-up); gives how many were taken.

        Rows: sent in order, 10,000 at most in one atomic part, each within the client's deadline.
        When a part fails, the parts before it are counted; the same rows with the error's
        `request_id` count none of them twice.

        Raises: as `vector`.
        """
        return drive(self._session.ingest(group, rows, request_id))

    def view(self, name: str, version: int | None = None) -> ViewInfo:
        """What the server says of a view: its input and output columns, its newest version.

        Raises:
            UnknownView: HOF-201.
        """
        return drive(self._session.view(name, version))

    def views(self) -> list[ViewInfo]:
        """Every view that can be asked for, each feature group's own among them."""
        return drive(self._session.views())

    def describe(self, view: str | None = None) -> dict[str, Any]:
        """All views, or all versions of one, with columns and types, as plain values."""
        return drive(self._session.action("describe", {"view": view} if view else {}))

    def health(self) -> dict[str, Any]:
        """`{"status": "SERVING"}`, or DRAINING while the server is stopping."""
        return drive(self._session.action("health", {}))

    def training_data(
        self,
        view: str,
        start: Any = None,
        end: Any = None,
        *,
        as_of: str = "arrival",
        split: Mapping[str, Any] | None = None,
        version: int | None = None,
        engine: str = "auto",
        ids: bool = False,
        deadline_ms: int = DEADLINE_MS,
    ) -> pa.Table:
        """`App.training_data`, made beside the server; labels are those that `label` took.

        Raises: BadRange (HOF-215), Overloaded (HOF-301), another one is being made.
        """
        ticket = ticket_of(view, start, end, as_of, split, version, engine, ids=ids)
        return drive(self._session.training_data(ticket, deadline_ms))

    def label(self, view: str, labels: Any, *, version: int | None = None) -> int:
        """`App.label`; labels of 16 MiB at most, as a table, a frame or rows.

        Raises: BadLabels (HOF-214).
        """
        body = label_body(view, version, labels)
        return int(drive(self._session.action("label", body, DEADLINE_MS))["rows"])

    def verify(
        self,
        view: str,
        since: Any = None,
        sample: float | None = None,
        *,
        version: int | None = None,
        deadline_ms: int = DEADLINE_MS,
    ) -> Parity:
        """`App.verify`, computed beside the server.

        Raises: CodeChanged (HOF-507), Overloaded (HOF-301), another one runs.
        """
        body = verify_body(view, version, since, sample)

        def ask(more: dict[str, Any]) -> dict[str, Any]:
            return drive(self._session.action("verify", {**body, **more}, deadline_ms))

        return parity_of(ask({}), lambda request_id: ask({"explain": request_id}))

    def close(self) -> None:
        """End the streams. Who still waits gets ConnectionLost; closing twice is fine."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Remote):
    """The verbs of `Client`, awaited; as many at once as a program likes, on one stream a view.

    Rows become a batch in the loop's thread. Cancelling a task stops its waiting, not its request.
    """

    async def vector(
        self,
        view: str,
        rows: Rows | None = None,
        *,
        keys: Mapping[str, Any] | None = None,
        version: int | None = None,
        deadline_ms: int | None = None,
        store: bool = True,
        request_id: bytes | UUID | None = None,
    ) -> Vector:
        """`Client.vector`."""
        return await drive_async(
            self._session.vector(
                view, rows, keys=keys, version=version, deadline_ms=deadline_ms, store=store,
                request_id=request_id,
            )
        )  # fmt: skip

    async def ingest(
        self, group: str, rows: Rows, *, request_id: bytes | UUID | None = None
    ) -> int:
        """`Client.ingest`."""
        return await drive_async(self._session.ingest(group, rows, request_id))

    async def view(self, name: str, version: int | None = None) -> ViewInfo:
        """`Client.view`."""
        return await drive_async(self._session.view(name, version))

    async def views(self) -> list[ViewInfo]:
        """`Client.views`."""
        return await drive_async(self._session.views())

    async def describe(self, view: str | None = None) -> dict[str, Any]:
        """`Client.describe`."""
        return await drive_async(self._session.action("describe", {"view": view} if view else {}))

    async def health(self) -> dict[str, Any]:
        """`Client.health`."""
        return await drive_async(self._session.action("health", {}))

    async def training_data(
        self,
        view: str,
        start: Any = None,
        end: Any = None,
        *,
        as_of: str = "arrival",
        split: Mapping[str, Any] | None = None,
        version: int | None = None,
        engine: str = "auto",
        ids: bool = False,
        deadline_ms: int = DEADLINE_MS,
    ) -> pa.Table:
        """`Client.training_data`."""
        ticket = ticket_of(view, start, end, as_of, split, version, engine, ids=ids)
        return await drive_async(self._session.training_data(ticket, deadline_ms))

    async def label(self, view: str, labels: Any, *, version: int | None = None) -> int:
        """`Client.label`."""
        body = label_body(view, version, labels)
        answer = await drive_async(self._session.action("label", body, DEADLINE_MS))
        return int(answer["rows"])

    async def verify(
        self,
        view: str,
        since: Any = None,
        sample: float | None = None,
        *,
        version: int | None = None,
        deadline_ms: int = DEADLINE_MS,
    ) -> Parity:
        """`Client.verify`, without its `explain`."""
        body = verify_body(view, version, since, sample)
        answer = await drive_async(self._session.action("verify", body, deadline_ms))
        return parity_of(answer, None)

    async def close(self) -> None:
        """`Client.close`."""
        import asyncio

        await asyncio.to_thread(self._finalizer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
