"""The guide's program that puts a group behind Spark, and what becomes of it when it ends."""

import json
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest

import hofflight as hof
from tests.integration.kafka_place import KafkaPlace, event

REPO = Path(__file__).parents[2]
PAGE = REPO / "docs/guide/spark.md"
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


def program(bootstrap):
    """The guide's, with a broker that is there."""
    (code,) = re.findall(r"```python no-run [^\n]*\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "kafka-1:9092" in code
    return code.replace("kafka-1:9092", bootstrap)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGKILL, id="SIGKILL"),
        pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.soak),  # a minute, with its JVM
    ],
)
def test_the_guides_program_answers_by_spark_and_nothing_outlives_it(tmp_path, broker, number):
    """Topics are made, a server finds the app's registry; every answer is what DuckDB says."""
    place = KafkaPlace(tmp_path, broker.bootstrap, partitions=2, nudge=1)
    place.environment["HOF_REGISTRY__URL"] = f"sqlite:///{tmp_path}/store/registry.sqlite"
    (tmp_path / "program.py").write_text(program(broker.bootstrap))
    command = [sys.executable, "-u", "program.py"]
    with place.process(command, HOF_REGISTRY__URL="", HOF_KAFKA__BOOTSTRAP="") as running:
        said = running.stdout.readline()
        wanted = r"<Spark answers card_tx: process \d+>\n"
        assert re.fullmatch(wanted, said), running.log.read_text()
        with (
            place.serving() as (_, address),
            hof.connect(address, deadline_ms=60_000) as client,
        ):
            for count in (1, 2, 3):
                found = client.vector("card_tx", [event(card, count) for card in range(8)])
                assert found.batch["card_tx.n_60"].to_pylist() == [count] * 8
        tree = psutil.Process(running.pid).children(recursive=True)
        assert any("java" in each.name() for each in tree)
        running.send_signal(number)
        running.wait(90)
        _, left = psutil.wait_procs(tree, 60)
        assert left == []

    done = place("verify", "card_tx", "--modules", "features", "--json", "--store", "store/spark")
    assert done.returncode == 0, done.stdout + done.stderr
    parity = json.loads(done.stdout)
    assert (parity["rows"], parity["mismatches"]) == (24, 0)
