"""A Flight server from its parts: bind, serve, drain."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc
import orjson
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hofflight import limits
from hofflight.clock import Clock, SystemClock
from hofflight.errors import Draining, SettingsError
from hofflight.observe.events import Events
from hofflight.server.access import (
    TokenInterceptor,
    require_free_unix_path,
    require_safe_bind,
    tls_credentials,
)
from hofflight.server.admission import Admission
from hofflight.server.counters import ServerStats
from hofflight.server.exchange import Exchange, submit_guarded
from hofflight.server.flight_service import SERVICE, FlightService, handlers_of
from hofflight.server.microbatch import MicroBatcher
from hofflight.server.replies import Replies
from hofflight.server.shared import Shared
from hofflight.server.streams import Streams

# The descriptors that reflection shows.
from hofflight.wire import flight_pb2  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable

    from hofflight.eventlog.protocol import Worker
    from hofflight.server.offline_process import OfflineProcess
    from hofflight.settings import ServerSettings

_WARNING_EVERY_S: Final = 60.0
_LOOKS_PER_TIMEOUT: Final = 4
_STOP_GRACE_S: Final = 0.2
_HEALTH_NAMES: Final = ("", SERVICE)
# Head, metadata and the few bytes of protobuf around a body of the largest size.
_MESSAGE_BYTES_MAX: Final = (
    limits.message_bytes_max + limits.header_bytes_max + limits.metadata_bytes_max + limits.KIB
)


class FlightServer:
    """Serves a worker's views over Arrow Flight.

    new_id: 16 random bytes. metrics: the body of the `metrics` action; JSON of `stats` if None.
    offline: who makes training data and parity; without, those are refused.
    Thread: all methods on the loop that `start` ran on.
    """

    def __init__(
        self, worker: Worker, settings: ServerSettings, *, clock: Clock | None = None,
        new_id: Callable[[], bytes] | None = None, log: Any = None,
        metrics: Callable[[], bytes] | None = None, offline: OfflineProcess | None = None,
    ) -> None:  # fmt: skip
        self._offline = offline
        self.stats = ServerStats()
        self._worker = worker
        self._settings = settings
        self._clock = clock or SystemClock()
        self._new_id = new_id or partial(os.urandom, 16)
        self._log = log or Events("hofflight.server")
        self._metrics = metrics or self._stats_json
        self._drained: asyncio.Future[bool] | None = None

    async def start(self) -> int:
        """Bind and serve; gives the TCP port, which is another than asked for only if that was 0.

        Raises:
            SettingsError: HOF-601, an address in use, or no address.
            UnsafeBind: HOF-602.
        """
        settings = self._settings
        self._exposed = require_safe_bind(settings)
        self._admission = Admission(
            settings.rows_in_flight_max, settings.bytes_in_flight_max, settings.streams_max
        )
        self._streams = Streams(self._admission, self.stats)
        tokens = [token.get_secret_value() for token in settings.tokens]
        self._server = grpc.aio.server(
            interceptors=[TokenInterceptor(tokens)] if tokens else [],
            options=_options(settings.streams_max),
        )
        self._server.add_generic_rpc_handlers([handlers_of(self._service())])
        await self._add_standard_services()
        port = self._bind()
        await self._server.start()
        self._watch = asyncio.create_task(self._watch_streams())
        self._log.info("serving", grpc=settings.grpc, port=port)
        return port

    def address(self, port: int) -> str:
        """Where clients find it, listening at this port."""
        host = self._settings.grpc.rpartition(":")[0]
        scheme = "grpc+tls" if self._settings.tls_certificate else "grpc"
        return f"{scheme}://{host}:{port}"

    async def tell_ready(self, *, is_ready: bool) -> None:
        """Say in health whether requests can be answered; a server that drains says no for good."""
        status = health_pb2.HealthCheckResponse
        for name in _HEALTH_NAMES:
            await self._health.set(name, status.SERVING if is_ready else status.NOT_SERVING)

    async def drain(self) -> bool:
        """Stop gracefully; True if every request under way was answered within the time.

        A second call waits for the same end.

        1. health says NOT_SERVING, new streams are refused
        2. streams that wait for their client end at once, the others after their answer
        3. the listeners close; what still runs is cancelled
        """
        if self._drained is None:
            self._drained = asyncio.ensure_future(self._drain())
        return await asyncio.shield(self._drained)

    async def stop(self) -> None:
        """Stop now, whatever is under way."""
        self._watch.cancel()
        await self._server.stop(None)

    async def _drain(self) -> bool:
        # 1. health says NOT_SERVING, new streams are refused
        await self._health.enter_graceful_shutdown()
        reason = Draining(
            "the server is stopping", hint="connect again", retry_after_ms=limits.retry_after_ms
        )
        # 2. streams that wait for their client end at once, the others after their answer
        clean = await self._streams.end(reason, self._settings.drain_timeout_ms / 1_000)
        # 3. the listeners close; what still runs (health watchers, reflection) is cancelled
        self._watch.cancel()
        await self._server.stop(_STOP_GRACE_S)
        self._log.info("stopped", clean=clean)
        return clean

    def _service(self) -> FlightService:
        shared = Shared(
            self._worker, self._admission, self._streams, self.stats, self._clock, self._new_id,
            self._log,
        )  # fmt: skip
        batcher = MicroBatcher(submit_guarded(shared), asyncio.get_running_loop().call_soon)
        exchange = Exchange(shared, batcher, Replies())
        return FlightService(shared, exchange, self._metrics, self._offline)

    async def _add_standard_services(self) -> None:
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        await self.tell_ready(is_ready=True)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def _bind(self) -> int:
        settings = self._settings
        credentials = tls_credentials(settings)
        port = self._add_port(settings.grpc, credentials)
        if settings.grpc_unix is not None:
            require_free_unix_path(settings.grpc_unix)
            # The socket is born 0600, not made so afterwards: nobody gets in between.
            before = os.umask(0o177)
            try:
                self._add_port(f"unix:{settings.grpc_unix}", None)
            finally:
                os.umask(before)
        return port

    def _add_port(self, address: str, credentials: Any) -> int:
        try:
            port: int = (
                self._server.add_insecure_port(address)
                if credentials is None
                else self._server.add_secure_port(address, credentials)
            )
        except RuntimeError:
            port = 0
        if port == 0:
            msg = f"cannot listen at {address}: in use, or not an address of this machine"
            raise SettingsError(msg, hint="stop the other server, or choose another port")
        return port

    async def _watch_streams(self) -> None:
        timeout_ms = self._settings.slow_reader_timeout_ms
        period_s = min(1.0, timeout_ms / 1_000 / _LOOKS_PER_TIMEOUT)
        warn_at_s = self._clock.monotonic_s()
        while True:
            now_s = self._clock.monotonic_s()
            if self._exposed and now_s >= warn_at_s:
                self._log.warning("insecure", grpc=self._settings.grpc, fix="TLS and tokens")
                warn_at_s = now_s + _WARNING_EVERY_S
            slow = self._streams.end_slow_readers(now_s, timeout_ms)
            if slow:
                self.stats.slow_readers += slow
                self._log.warning("slow_readers_ended", streams=slow)
            await asyncio.sleep(period_s)

    def _stats_json(self) -> bytes:
        return orjson.dumps(dataclasses.asdict(self.stats))


def _options(streams_max: int) -> list[tuple[str, int]]:
    return [
        # Without this a second server on the same port starts, and gets half of the connections.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", -1),
        # Above our own bound, so that one stream too many is refused with a hint and not queued.
        ("grpc.max_concurrent_streams", 2 * streams_max),
        ("grpc.max_metadata_size", 8 * limits.KIB),
        ("grpc.absolute_max_metadata_size", 16 * limits.KIB),
        # No message compression: a few bytes must not become megabytes before anyone looks.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 4),
    ]
