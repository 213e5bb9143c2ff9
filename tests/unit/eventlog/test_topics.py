"""Topics by name, and what each of them has to be."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hofflight as hof
from hofflight.eventlog.topics import (
    TopicSpec,
    dead_letters,
    input_spec,
    input_topic,
    reply_topics,
    retention_ms_of,
    shared_specs,
)
from hofflight.settings import KafkaSettings

DAY_MS = 86_400_000
SPEC = TopicSpec("hof.in.g.1", 8, 10 * DAY_MS, 900_000)
AS_MADE = {"retention.bytes": "-1", **SPEC.config()}


def group_of(**fields):
    return hof.feature_group(
        "g", version=1, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.int64()},
        **{"windows": {}, **fields},
    )  # fmt: skip


def test_names_carry_the_prefix_of_the_system():
    """Several systems may share a cluster."""
    settings = KafkaSettings(prefix="eu", reply_topics=2)
    assert input_topic("card_tx.1", "eu") == "eu.in.card_tx.1"
    assert dead_letters("eu") == "eu.dlq"
    assert reply_topics(settings) == ["eu.reply.00", "eu.reply.01"]
    assert [s.name for s in shared_specs(settings)] == ["eu.reply.00", "eu.reply.01", "eu.dlq"]
    assert input_spec("g.1", [group_of()], settings).name == "eu.in.g.1"


def test_every_reply_topic_has_a_name_of_its_own():
    """A hundred is the most there can be."""
    names = reply_topics(KafkaSettings(reply_topics=100))
    assert len(set(names)) == 100
    assert names == sorted(names)


def test_a_topic_as_it_was_made_has_no_problem():
    """What `config` says is what `problems` asks for."""
    for spec in (SPEC, *shared_specs(KafkaSettings())):
        assert spec.problems(spec.partitions, spec.config()) == []


@pytest.mark.parametrize(
    ("partitions", "config", "word"),
    [
        (0, {}, "0 partitions"),
        (8, {"cleanup.policy": "compact"}, "cleanup.policy compact"),
        (8, {"cleanup.policy": "compact,delete"}, "cleanup.policy"),
        (8, {"retention.ms": str(10 * DAY_MS - 1)}, "the windows need"),
        (8, {"retention.bytes": "1000000"}, "retention.bytes 1000000"),
        (8, {"max.message.bytes": "899999"}, "takes 899999 bytes"),
    ],
)
def test_each_wrong_setting_is_one_problem_that_names_the_topic(partitions, config, word):
    """Whoever reads it knows which topic and which number."""
    (problem,) = SPEC.problems(partitions, {**AS_MADE, **config})
    assert problem.startswith("topic hof.in.g.1 ")
    assert word in problem


def test_more_than_is_needed_is_no_problem():
    """More partitions than the setting says, longer kept, larger records."""
    more = {"retention.ms": "-1", "max.message.bytes": "5000000"}
    assert SPEC.problems(16, {**AS_MADE, **more}) == []
    assert SPEC.problems(8, {**AS_MADE, "retention.ms": str(99 * DAY_MS)}) == []


def test_what_is_kept_for_ever_is_a_problem_where_it_is_not():
    """-1 is longer than any number."""
    spec = TopicSpec("t", 8, -1, 900_000)
    assert spec.problems(8, spec.config()) == []
    assert len(spec.problems(8, {**spec.config(), "retention.ms": str(3_650 * DAY_MS)})) == 1


def test_a_topic_for_one_reader_has_one_partition():
    """A second one of a reply topic would be read by nobody."""
    (reply, *_) = shared_specs(KafkaSettings())
    assert len(reply.problems(2, reply.config())) == 1


@given(days=st.integers(1, 400), late_h=st.integers(0, 2_000))
def test_events_are_kept_for_longer_than_any_window_reaches(days, late_h):
    """Its width, a tile, `late` and a day; never less than a week."""
    windows = {
        "n": hof.count().over(f"{days}d", tile="1h"),
        "m": hof.count().over("1h"),
    }
    found = retention_ms_of(group_of(windows=windows, late=f"{late_h + 1}h"))

    assert found >= days * DAY_MS + (late_h + 2) * 3_600_000
    assert found >= 7 * DAY_MS


@pytest.mark.parametrize(
    "window", [hof.count().last(5), hof.count().session("5m"), hof.count().lifetime()]
)
def test_windows_without_an_end_keep_events_for_ever(window):
    """Nobody knows how far back their rows are."""
    windows = {"n": hof.count().over("1h"), "m": window}
    assert retention_ms_of(group_of(windows=windows)) == -1


def test_a_topic_keeps_what_the_neediest_of_its_versions_needs():
    """All versions of an input schema read one topic."""
    short = group_of(windows={"n": hof.count().over("1h")})
    long = group_of(windows={"n": hof.count().tumbling("90d")})
    ever = group_of(windows={"n": hof.count().lifetime()})
    settings = KafkaSettings()

    assert input_spec("g.1", [short], settings).retention_ms == 7 * DAY_MS
    assert input_spec("g.1", [short, long], settings).retention_ms > 91 * DAY_MS
    for groups in ([ever, long], [long, ever, short]):
        assert input_spec("g.1", groups, settings).retention_ms == -1


def test_a_dead_letter_fits_into_its_topic_with_what_is_said_about_it():
    """The record itself may be as large as any."""
    settings = KafkaSettings()
    *_, dlq = shared_specs(settings)
    assert dlq.bytes_max >= input_spec("g.1", [], settings).bytes_max + 32 * 1_024
