"""The Flight service: one thin method an RPC, and what of an error leaves the process."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import grpc
import orjson

from hofflight.errors import HofError, NotSupported
from hofflight.server import discovery
from hofflight.server.echo import ECHO_PATH, echo
from hofflight.server.opening import read_descriptor, view_of
from hofflight.server.status import abort, incident
from hofflight.server.streams import WRITING
from hofflight.wire import flight_pb2 as pb
from hofflight.wire.ipc import encode_batch, encode_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from hofflight.server.exchange import Exchange
    from hofflight.server.offline_process import OfflineProcess
    from hofflight.server.shared import Shared

    Method = Callable[[Any, Any, Any], Coroutine[Any, Any, Any]]

SERVICE: Final = "arrow.flight.protocol.FlightService"
_ACTIONS: Final = {
    "health": "Whether the server takes requests; JSON.",
    "describe": 'Views with columns and types; JSON. Body: nothing, or {"view": "name"}.',
    "metrics": "Counters since the start.",
    "verify": 'Served against replayed; JSON. Body: {"view": "name"}, since, sample, explain.',
    "label": "Keep labels; JSON. Body: msgpack of view, version and table, an Arrow IPC file.",
}


def _answering(method: Method) -> Method:
    """Errors of a method become its status; of an unexpected one a client learns only a number."""

    @functools.wraps(method)
    async def answering(self: FlightService, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        except grpc.aio.BaseError:
            raise  # the call is over (aborted, or the client left): gRPC ends it
        except HofError as error:
            await abort(context, error)
        except Exception as bug:
            shared = self.shared
            shared.stats.incidents += 1
            await abort(context, incident(bug, shared.log, shared.new_id, method.__name__))

    return answering


class FlightService:
    """The methods that gRPC calls, all on the loop's thread."""

    def __init__(
        self,
        shared: Shared,
        exchange: Exchange,
        metrics: Callable[[], bytes],
        offline: OfflineProcess | None = None,
    ) -> None:
        self.shared = shared
        self._offline = offline
        self._exchange = exchange
        self._metrics = metrics

    @_answering
    async def DoExchange(self, _: Any, context: Any) -> None:
        """Batches in, feature vectors out; or the echo."""
        stream = self.shared.streams.enter(context)
        try:
            first = await read_descriptor(stream)
            if first.flight_descriptor.path == ECHO_PATH:
                await echo(stream, self.shared.streams, self.shared.stats, first)
            else:
                await self._exchange.run(stream, first)
        finally:
            self.shared.streams.leave(stream)

    @_answering
    async def DoPut(self, _: Any, context: Any) -> None:
        """Events without answers."""
        stream = self.shared.streams.enter(context)
        try:
            await self._exchange.put(stream, await read_descriptor(stream))
        finally:
            self.shared.streams.leave(stream)

    @_answering
    async def ListFlights(self, _: Any, context: Any) -> None:
        """Every view."""
        views = self.shared.worker.views()
        for served in views:
            await context.write(discovery.flight_info(served, views))

    @_answering
    async def GetFlightInfo(self, request: Any, _: Any) -> Any:
        """One view: its output schema, and the rest in app_metadata."""
        served = self.shared.worker.bind(*view_of(request))
        return discovery.flight_info(served, self.shared.worker.views())

    @_answering
    async def GetSchema(self, request: Any, _: Any) -> Any:
        """One view's output schema."""
        return discovery.schema_result(self.shared.worker.bind(*view_of(request)))

    @_answering
    async def DoAction(self, request: Any, context: Any) -> None:
        """One of `_ACTIONS`."""
        if request.type == "health":
            state = "SERVING" if self.shared.streams.ending is None else "DRAINING"
            body = orjson.dumps({"status": state})
        elif request.type == "describe":
            body = discovery.describe(request.body, self.shared.worker.views())
        elif request.type == "metrics":
            body = self._metrics()
        elif request.type in ("verify", "label"):
            run = getattr(self._offline_or_refused(), request.type)
            body = await run(request.body)
        else:
            msg = f"action {request.type[:100]!r} is not served"
            raise NotSupported(msg, hint="one of " + ", ".join(_ACTIONS))
        await context.write(pb.Result(body=body))

    @_answering
    async def DoGet(self, request: Any, context: Any) -> None:
        """A training table: its schema, then its batches."""
        stream = self.shared.streams.enter(context)
        try:
            async with self._offline_or_refused().train(request.ticket) as (schema, batches):
                stream.state = WRITING
                head = encode_schema(schema)
                await context.write(pb.FlightData(data_header=head).SerializeToString())
                for batch in batches:
                    head, rows = encode_batch(batch)
                    data = pb.FlightData(data_header=head, data_body=rows)
                    await context.write(data.SerializeToString())
                    stream.written += 1
        finally:
            self.shared.streams.leave(stream)

    def _offline_or_refused(self) -> OfflineProcess:
        if self._offline is None:
            raise NotSupported("this server serves no offline verbs")
        return self._offline

    @_answering
    async def ListActions(self, _: Any, context: Any) -> None:
        """The actions."""
        for name, description in _ACTIONS.items():
            await context.write(pb.ActionType(type=name, description=description))

    @_answering
    async def NotServed(self, _: Any, context: Any) -> None:
        """Handshake and PollFlightInfo."""
        msg = "this Flight method is not served"
        raise NotSupported(msg, hint="DoExchange answers requests, GetFlightInfo describes a view")


def handlers_of(service: FlightService) -> Any:
    """The service as a handler to add to a gRPC server.

    The methods with many messages get bytes and parse them themselves: what is wrong with a
    message is then theirs to say.
    """
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    both = grpc.stream_stream_rpc_method_handler
    info, schema, result = (
        t.SerializeToString for t in (pb.FlightInfo, pb.SchemaResult, pb.Result)
    )
    descriptor = pb.FlightDescriptor.FromString
    action_type = pb.ActionType.SerializeToString
    return grpc.method_handlers_generic_handler(SERVICE, {
        "DoExchange": both(service.DoExchange),
        "DoPut": both(service.DoPut),
        "ListFlights": stream(service.ListFlights, pb.Criteria.FromString, info),
        "GetFlightInfo": unary(service.GetFlightInfo, descriptor, info),
        "GetSchema": unary(service.GetSchema, descriptor, schema),
        "DoAction": stream(service.DoAction, pb.Action.FromString, result),
        "ListActions": stream(service.ListActions, pb.Empty.FromString, action_type),
        "Handshake": both(service.NotServed),
        "DoGet": stream(service.DoGet, pb.Ticket.FromString),
        "PollFlightInfo": both(service.NotServed),
    })  # fmt: skip
