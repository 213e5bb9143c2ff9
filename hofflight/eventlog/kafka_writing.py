"""Writing to Kafka past a record that did not get there.

aiokafka numbers records as they leave. Of one that is refused, or given up, brokers wait for the
number for ever, and refuse all that follow it in its partition: only a new producer goes on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

_STOP_S: Final = 4.0


class SteadyProducer:
    """Hands records over, with a new producer after each that failed. Thread: one loop's.

    start: makes one and starts it. Raises: KafkaUnavailable (HOF-512).
    """

    def __init__(self, start: Callable[[], Awaitable[AIOKafkaProducer]]) -> None:
        self._start = start
        self._producer: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    async def produce(
        self, topic: str, partition: int, value: bytes | None, headers: list[tuple[str, Any]]
    ) -> None:
        """Ends when all replicas have it; whatever it raises, it may have landed or not."""
        producer = await self.current()
        key = b"" if value is None else None  # aiokafka wants one of the two
        try:
            acknowledged = await producer.send(
                topic, value, key=key, partition=partition, headers=headers
            )
            await acknowledged
        except Exception:
            self._leave(producer)
            raise

    async def current(self) -> AIOKafkaProducer:
        """The one that is at work; a new one, where the last was left."""
        async with self._lock:
            if self._producer is None:
                self._producer = await self._start()
            return self._producer

    async def stop(self) -> None:
        """Send what is on its way, for some seconds."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stopped(producer)
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def _leave(self, producer: AIOKafkaProducer) -> None:
        if self._producer is producer:
            self._producer = None
            task = asyncio.get_running_loop().create_task(stopped(producer))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)


async def stopped(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stop a client: what is on its way may leave, but without brokers it would wait for ever.

    A task of its own, as aiokafka lets a cancelled task of its own end `stop` like one of ours.
    """
    stopping = asyncio.ensure_future(client.stop())
    _, late = await asyncio.wait([stopping], timeout=_STOP_S)
    stopping.cancel()
    if late:
        await asyncio.wait([stopping], timeout=1.0)
    elif not stopping.cancelled():
        stopping.exception()  # seen, and nobody's affair any more
