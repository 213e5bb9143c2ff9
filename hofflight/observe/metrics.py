"""Every metric: name, unit, help; and their text for Prometheus.

Rooms count in plain integers of their own (`EngineCounters`, `ServerStats`); nothing is locked or
looked up on the hot path. Names follow `hof_<room>_<what>[_<unit>]_total`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.core import Metric as Sample


class Metric(NamedTuple):
    """A metric as users read of it; `kind` is `counter` or `gauge`."""

    name: str
    kind: str
    unit: str
    help: str


METRICS: Final = (
    Metric("hof_engine_requests_total", "counter", "requests", "Requests taken over."),
    Metric("hof_engine_rows_total", "counter", "rows", "Rows counted and logged."),
    Metric("hof_engine_rows_late_total", "counter", "rows", "Rows that came too late for windows."),
    Metric("hof_engine_refused_total", "counter", "requests", "Requests answered with an error."),
    Metric("hof_engine_repeated_total", "counter", "requests", "Known ids answered from the log."),
    Metric("hof_engine_turns_total", "counter", "turns", "Turns; requests / turns is the batch."),
    Metric("hof_engine_keys", "gauge", "keys", "Keys with window state in memory."),
    Metric("hof_engine_groups_wedged", "gauge", "groups", "Groups whose function hangs."),
    Metric("hof_kafka_records_total", "counter", "records", "Records of requests that left."),
    Metric("hof_kafka_requests_total", "counter", "requests", "Requests that left in them."),
    Metric("hof_kafka_answers_total", "counter", "answers", "Answers that found their request."),
    Metric("hof_kafka_foreign_total", "counter", "answers", "Answers that nobody waits for."),
    Metric("hof_kafka_bad_total", "counter", "records", "Records of answers that are none."),
    Metric("hof_kafka_expired_total", "counter", "requests", "Requests unanswered in time."),
    Metric("hof_kafka_failed_total", "counter", "requests", "Requests the brokers did not take."),
    Metric("hof_online_lookups_total", "counter", "lookups", "Lookups of stored features."),
    Metric("hof_online_failed_total", "counter", "lookups", "Lookups without an answer."),
    Metric("hof_server_requests_total", "counter", "requests", "Batches read from streams."),
    Metric("hof_server_answers_total", "counter", "answers", "Answers written, errors included."),
    Metric("hof_server_errors_total", "counter", "answers", "Answers whose code is not OK."),
    Metric("hof_server_refused_total", "counter", "answers", "Errors by which nothing was logged."),
    Metric("hof_server_streams_open", "gauge", "streams", "Streams open now."),
    Metric("hof_server_slow_readers_total", "counter", "streams", "Streams ended, nobody read."),
    Metric("hof_server_incidents_total", "counter", "incidents", "Bugs of ours that were met."),
    Metric("hof_server_bytes_in_total", "counter", "bytes", "Bytes of batches read."),
    Metric("hof_server_bytes_out_total", "counter", "bytes", "Bytes of batches written."),
)


def exposition(values: Mapping[str, float]) -> bytes:
    """The Prometheus text of all metrics; `values` by full name, what is missing is 0."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Values(values))
    return generate_latest(registry)


class _Values:
    """What prometheus_client calls a collector: hands out values that exist already."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = values

    def collect(self) -> Iterator[Sample]:
        """One family per metric."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for metric in METRICS:
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            yield family(metric.name, metric.help, value=self._values.get(metric.name, 0))

    def describe(self) -> Iterable[Sample]:
        """Nothing: there is no other collector to clash with."""
        return ()


def named(room: str, values: Mapping[str, int]) -> dict[str, float]:
    """A room's counters by metric name: `requests` of `engine` is `hof_engine_requests_total`."""
    full = {f"hof_{room}_{name}": value for name, value in values.items()}
    known = {metric.name for metric in METRICS}
    return {
        name if name in known else f"{name}_total": float(value) for name, value in full.items()
    }
