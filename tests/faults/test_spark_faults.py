"""What dies of a Spark application under load: one outcome each, counted once."""

import contextlib
import time

import psutil
import pytest

from hofflight.testing.kafka import kafka_broker
from tests.integration.kafka_place import KafkaPlace
from tests.integration.ledger import Ledger, settled

TRIGGER_S = 10


def processes(supervisor, kind):
    """The application's JVM (`java`), or its Python workers (`pyspark.daemon`), by their lines."""
    found = []
    for process in psutil.Process(supervisor.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            if kind == "java" and "org.apache.spark.deploy.SparkSubmit" in line:
                found.append(process)
            if kind == "worker" and "pyspark.daemon" in line and not process.children():
                found.append(process)
    return found


def kill(found):
    assert found
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def answers_again(ledger, seconds=90):
    """Wait until answers come again, and some more."""
    before, end_s = ledger.outcomes["answered"], time.monotonic() + seconds
    while ledger.outcomes["answered"] < before + 20:
        assert time.monotonic() < end_s, ledger.outcomes
        time.sleep(0.1)
    settled(ledger, 1)


def killed_in_turn(place, broker, rounds, *, with_broker):
    """Kill the driver's JVM and the Python workers in turn, and the broker once."""
    with (
        place.serving(HOF_KAFKA__NUDGE="1") as (_, one),
        place.serving(HOF_KAFKA__NUDGE="1") as (_, two),
        Ledger([one, two]) as ledger,
        place.sparking("--trigger", f"{TRIGGER_S}s") as application,
    ):
        answers_again(ledger)
        for number in range(rounds):
            kill(processes(application, ("worker", "java")[number % 2]))
            answers_again(ledger)
        if with_broker:
            broker.kill()
            time.sleep(0.5)
            broker.start()
            answers_again(ledger)
        settled(ledger, TRIGGER_S)
        ledger.stop.set()
        for thread in ledger.threads:
            thread.join(120)
        log = application.log.read_text()
    verified = [place.verified(partition) for partition in (0, 1)]
    print(ledger.outcomes, ledger.answered)
    assert not ledger.wrong, log[-3_000:]
    assert sorted(ledger.answered) == [0, 1, 2, 3]
    assert [one["mismatches"] for one in verified] == [0, 0]
    # Each event is counted once, whatever became of its answers.
    assert sum(one["rows"] for one in verified) == sum(ledger.answered.values())


@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_workers_the_driver_and_the_broker_are_killed_in_turn_under_load(tmp_path):
    """P1, P3, P6, P7 of the design, across boundaries of triggers."""
    with kafka_broker() as broker:
        place = KafkaPlace(tmp_path, broker.bootstrap, request_timeout_ms=2_000)
        place.register()
        killed_in_turn(place, broker, 2, with_broker=True)


@pytest.mark.soak
def test_drivers_and_workers_are_killed_many_times(tmp_path):
    with kafka_broker() as broker:
        place = KafkaPlace(tmp_path, broker.bootstrap, request_timeout_ms=2_000)
        place.register()
        killed_in_turn(place, broker, 10, with_broker=True)
