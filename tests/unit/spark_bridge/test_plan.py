"""What a user asks of Spark: wrong wishes are refused when they are said."""

import pytest

import hofflight as hof
from hofflight.errors import InvalidDuration, SettingsError
from hofflight.spark_bridge.plan import SparkPlan


def test_the_defaults_are_those_of_the_command():
    assert hof.spark().plan == SparkPlan()
    assert (SparkPlan().trigger_us, SparkPlan().mode) == (300_000_000, "realtime")
    assert (SparkPlan().takeover_s, SparkPlan(takeover="1m").takeover_s) == (None, 60.0)


def test_a_plan_is_a_value_that_never_changes():
    given = {"spark.a": "1"}
    engine = hof.spark(conf=given, partitions=range(2), store="there")
    given["spark.b"] = "2"

    assert engine == hof.spark(conf={"spark.a": "1"}, partitions=[0, 1], store="there")
    with pytest.raises(AttributeError):
        engine.store = "elsewhere"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"mode": "batch"}, SettingsError, "mode 'batch' is none of realtime, microbatch"),
        ({"trigger": "4999ms"}, SettingsError, "5 s at least"),
        ({"trigger": "often"}, InvalidDuration, "trigger must be a positive duration"),
        ({"trigger": 5}, InvalidDuration, "trigger must be a positive duration"),
        ({"takeover": "14999ms"}, SettingsError, "15s at least"),
        ({"takeover": "soon"}, InvalidDuration, "takeover must be a positive duration"),
        ({"partitions": []}, SettingsError, "no numbers of partitions"),
        ({"partitions": [0, -1]}, SettingsError, "no numbers of partitions"),
        ({"partitions": "01"}, SettingsError, "no numbers of partitions"),
        ({"conf": {"executor.cores": "1"}}, SettingsError, "'executor.cores' is no spark.KEY"),
        ({"conf": {1: "1"}}, SettingsError, "1 is no spark.KEY"),
        ({"conf": {"spark.x": True}}, SettingsError, r"expected text.*\{'spark.x': 'true'\}"),
    ],
)
def test_what_is_wrong_is_said_at_once(options, error, words):
    with pytest.raises(error, match=words):
        hof.spark(**options)
