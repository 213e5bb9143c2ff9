"""The Kafka cluster, through aiokafka: clients without an unsafe default left, and its topics.

aiokafka commits offsets by itself, acknowledges by one broker and tries again without order unless
it is told otherwise; every such choice is made here.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from hofflight.errors import HistoryMissing, KafkaUnavailable, SettingsError, TopicProblem
from hofflight.eventlog.kafka_reading import POLL_MS, PartitionReader, SteadyConsumer
from hofflight.eventlog.kafka_writing import SteadyProducer, stopped
from hofflight.eventlog.topics import TopicSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

    from hofflight.settings import KafkaSettings

# Errors of a produce that say that nothing was written; after all others nobody knows.
DEFINITE: Final = (
    InvalidTopicError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)
_REPLICAS: Final = 3
_HEARD_MS: Final = 50
_COMMON: Final = {"retry_backoff_ms": 50, "metadata_max_age_ms": 60_000}


class Cluster:
    """Makes clients of one cluster. Thread: the loop that uses them."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._connection = _connection(settings)

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[AIOKafkaProducer]:
        """All replicas acknowledge, retries keep the order and double nothing.

        Raises: KafkaUnavailable (HOF-512).
        """
        producer = await self._started_producer()
        try:
            yield producer
        finally:
            await producer.stop()

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[Callable[..., Awaitable[None]]]:
        """What hands records over, and goes on after one that failed.

        Raises: KafkaUnavailable (HOF-512).
        """
        producer = SteadyProducer(self._started_producer)
        await producer.current()
        try:
            yield producer.produce
        finally:
            await producer.stop()

    async def _started_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._connection,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            # One record is one of our batches: aiokafka must not wait to put several together.
            max_batch_size=self._settings.record_bytes_max,
            max_request_size=2 * self._settings.record_bytes_max,
            request_timeout_ms=self._settings.request_timeout_ms,
        )
        await self._started(producer)
        return producer

    @asynccontextmanager
    async def consumer(self, group: str | None = None) -> AsyncIterator[SteadyConsumer]:
        """Partitions are assigned by hand, and nothing is committed by itself.

        `group`: under which name offsets are kept. Raises: KafkaUnavailable (HOF-512).
        """
        consumer = SteadyConsumer(
            **self._connection,
            group_id=group,
            enable_auto_commit=False,
            # Where to begin is always said; an offset that is gone must not be skipped over.
            auto_offset_reset="none",
            fetch_max_wait_ms=500,
            max_partition_fetch_bytes=2 * self._settings.record_bytes_max,
            request_timeout_ms=max(self._settings.request_timeout_ms, 1_000),
        )
        await self._started(consumer)
        try:
            yield consumer
        finally:
            await stopped(consumer)

    @asynccontextmanager
    async def reader(self, topic: str) -> AsyncIterator[PartitionReader]:
        """What partition 0 of a topic holds now, for reading.

        Raises: TopicProblem (HOF-513), there is no such topic; KafkaUnavailable (HOF-512).
        """
        if not await self.partitions([topic]):
            raise TopicProblem(f"topic {topic} is missing", hint="`hof register` makes it")
        async with self._reading([TopicPartition(topic, 0)]) as readers:
            yield readers[0]

    async def records(self, topic: str, number: int, begin: int, end: int) -> AsyncGenerator[Any]:
        """The records of a partition between two offsets, what cannot be decoded left out.

        begin: 0 takes what is still there. Raises: HistoryMissing (HOF-508), those at `begin` are
        gone; KafkaUnavailable (HOF-512).
        """
        async with self._reading([TopicPartition(topic, number)]) as readers:
            reader = readers[0]
            if 0 < begin < reader.begin:
                msg = f"{topic}/{number} begins at {reader.begin}, rows are counted to {begin}"
                hint = "restore the store, or make a new version of the group"
                raise HistoryMissing(msg, hint=hint)
            async for _, record in reader.read(max(begin, reader.begin), min(end, reader.end)):
                if record is not None:
                    yield record

    async def tails(
        self, places: Sequence[tuple[str, int]], length: int
    ) -> dict[tuple[str, int], list[Any]]:
        """The last records of partitions, by topic and number; at most `length` of each.

        Raises: KafkaUnavailable (HOF-512).
        """
        keys = [TopicPartition(*place) for place in places]
        found: dict[tuple[str, int], list[Any]] = {}
        async with self._reading(keys) as readers:
            for place, reader in zip(places, readers, strict=True):
                begin = max(reader.begin, reader.end - length)
                records = [r async for _, r in reader.read(begin, reader.end)]
                found[place] = [record for record in records if record is not None]
        return found

    async def bounds(
        self, places: Sequence[tuple[str, int]]
    ) -> dict[tuple[str, int], tuple[int, int]]:
        """Where partitions begin and end now, by topic and number.

        Raises: KafkaUnavailable (HOF-512).
        """
        async with self._reading([TopicPartition(*place) for place in places]) as readers:
            pairs = zip(places, readers, strict=True)
            return {place: (reader.begin, reader.end) for place, reader in pairs}

    @asynccontextmanager
    async def _reading(
        self, keys: Sequence[TopicPartition]
    ) -> AsyncIterator[list[PartitionReader]]:
        async with self.consumer() as client:
            polls = self._settings.request_timeout_ms // POLL_MS + 1
            try:
                begins = await client.beginning_offsets(list(keys))
                ends = await client.end_offsets(list(keys))
                yield [PartitionReader(client, k, begins[k], ends[k], polls) for k in keys]
            except KafkaError as error:
                raise self._unavailable(error) from error

    async def ensure(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Make the topics that are not there, check those that are; gives the names made.

        Raises: TopicProblem (HOF-513), KafkaUnavailable (HOF-512).
        """
        async with self._admin() as admin:
            there = set(await admin.list_topics())
            missing = [spec for spec in specs if spec.name not in there]
            if missing:
                await _create(admin, missing, self._settings.replication)
                await self._until_there(admin, {spec.name for spec in missing})
        await self.check(specs)
        return [spec.name for spec in missing]

    async def _until_there(self, admin: Any, names: set[str]) -> None:
        """A topic is made by the controller; brokers hear of it a moment later."""
        for _ in range(self._settings.request_timeout_ms // _HEARD_MS):
            if names <= set(await admin.list_topics()):
                return
            await asyncio.sleep(_HEARD_MS / 1_000)

    async def check(self, specs: Sequence[TopicSpec]) -> dict[str, int]:
        """The topics' numbers of partitions, by name.

        Raises: TopicProblem (HOF-513), one is missing or not as it has to be; KafkaUnavailable
            (HOF-512).
        """
        async with self._admin() as admin:
            partitions = await _partitions(admin, [spec.name for spec in specs])
            configs = await _configs(
                admin, [spec.name for spec in specs if spec.name in partitions]
            )
        problems = []
        for spec in specs:
            if spec.name in partitions:
                problems += spec.problems(partitions[spec.name], configs[spec.name])
            else:
                problems.append(f"topic {spec.name} is missing")
        if problems:
            hint = "`hof register` makes what is missing; kafka-configs.sh changes what is there"
            raise TopicProblem("; ".join(problems), hint=hint)
        return partitions

    async def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """The numbers of partitions of those topics that are there.

        Raises: KafkaUnavailable (HOF-512).
        """
        async with self._admin() as admin:
            return await _partitions(admin, topics)

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[Any]:
        admin = AIOKafkaAdminClient(
            **self._connection, request_timeout_ms=self._settings.request_timeout_ms
        )
        await self._started(admin)
        try:
            yield admin
        except (KafkaError, OSError) as error:
            raise self._unavailable(error) from error
        finally:
            await admin.close()

    async def _started(self, client: Any) -> None:
        try:
            await client.start()
        except (KafkaError, OSError) as error:
            await (client.close() if hasattr(client, "close") else client.stop())
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> KafkaUnavailable:
        msg = f"Kafka at {self._settings.bootstrap}: {type(error).__name__}: {error}"
        return KafkaUnavailable(msg, hint="is it running, and are kafka.security and login right?")


def partition_of_topic(topic: str, partition: int) -> TopicPartition:
    """What consumers call a partition."""
    return TopicPartition(topic, partition)


def _connection(settings: KafkaSettings) -> dict[str, Any]:
    if not settings.bootstrap:
        msg = "kafka.bootstrap is not set"
        raise SettingsError(msg, hint="--kafka HOST:PORT, or HOF_KAFKA__BOOTSTRAP")
    connection: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap,
        "security_protocol": settings.security,
        "client_id": "hofflight",
        **_COMMON,
    }
    if settings.security.endswith("SSL"):
        connection["ssl_context"] = _tls(settings)
    if settings.security.startswith("SASL"):
        connection |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.username,
            "sasl_plain_password": settings.password.get_secret_value(),
        }
    return connection


def _tls(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        if settings.tls_certificate is not None:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:
        msg = f"kafka.tls_*: a file cannot be read: {error.strerror or type(error).__name__}"
        raise SettingsError(msg) from error
    return context


async def _create(admin: Any, specs: Sequence[TopicSpec], replication: int) -> None:
    brokers = len((await admin.describe_cluster())["brokers"])
    replicas = replication or min(_REPLICAS, brokers)
    topics = [
        NewTopic(spec.name, spec.partitions, replicas, topic_configs=spec.config())
        for spec in specs
    ]
    try:
        found = await admin.create_topics(topics)
    except TopicAlreadyExistsError:  # somebody else was faster
        return
    for name, code, *rest in found.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            msg = f"topic {name} cannot be made: {error.__name__} {rest[0] if rest else ''}"
            raise TopicProblem(msg.rstrip())


async def _partitions(admin: Any, topics: Sequence[str]) -> dict[str, int]:
    there = set(await admin.list_topics())
    wanted = [topic for topic in topics if topic in there]
    described = await admin.describe_topics(wanted) if wanted else []
    return {topic["topic"]: len(topic["partitions"]) for topic in described}


async def _configs(admin: Any, topics: Sequence[str]) -> dict[str, dict[str, str]]:
    if not topics:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    found: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs(resources):
        for _, _, _, name, entries in answer.resources:
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found
