"""`hof demo spark`, small: every event answered over Kafka and Spark, and proven; nothing left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

REPO = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "hofflight.cli.main", "demo", "spark"]
SMALL = ["--customers", "12", "--days", "20"]
# Two JVMs with two queries each, beside a broker, on whatever else this machine does.
pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]  # three starts of JVMs: a minute each
_DONE_S = 240


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the demo runs, and where its temporary files go."""
    return tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("temporary")


def environment(temporary, **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOF_")}
    return {**kept, "PYTHONPATH": str(REPO), "TMPDIR": str(temporary), **more}


@pytest.fixture(scope="module")
def result(place):
    """What `hof demo spark --json` prints, among settings that are none of its own."""
    here, temporary = place
    done = subprocess.run(
        [*COMMAND, *SMALL, "--json"], cwd=here,
        env=environment(temporary, HOF_KAFKA__PARTITIONS="7", HOF_KAFKA__PREFIX="others"),
        capture_output=True, text=True, timeout=_DONE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_event_is_answered_by_both_groups(result):
    assert result["events"] == result["answers"] == 2 * result["groups"]["card_tx"]["events"] > 500
    assert result["errors"] == 0
    for group in result["groups"].values():
        assert (group["answers"], group["errors"]) == (group["events"], 0)
        assert (group["error_codes"], group["late"]) == ([], 0)


def test_every_answer_is_replayed_without_a_mismatch(result):
    assert (result["parity_rows"], result["parity_mismatches"]) == (result["events"], 0)
    for name, group in result["groups"].items():
        assert group["parity_parts"] == {name: group["events"]}


def test_one_group_is_of_expressions_and_one_of_pandas(result):
    functions = {name: group["functions"] for name, group in result["groups"].items()}

    assert functions == {"card_tx": "expressions", "card_habits": "pandas"}


def test_answers_come_in_less_time_than_a_micro_batch_takes(result):
    """Real-Time Mode answers within some milliseconds; the half of these may wait for the cores."""
    for group in result["groups"].values():
        latency = group["latency_us"]["vector"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
        assert latency["p50"] < 150_000
        assert group["latency_us"]["echo"]["p50"] < latency["p50"]


def test_vectors_of_pandas_are_ones_that_can_be(result):
    assert len(result["vectors"]) == 3
    for named in result["vectors"]:
        vector = {name.removeprefix("card_habits."): value for name, value in named.items()}
        assert vector["cents"] == round(vector["amount"] * 100) % 100
        assert vector["is_small"] == (vector["amount"] < 10)
        assert 0 <= vector["small_7d"] <= vector["n_7d"] > 0
        assert vector["small_share_7d"] == pytest.approx(vector["small_7d"] / vector["n_7d"])


def test_nothing_is_left_of_it(result, place):
    here, temporary = place

    assert list(here.iterdir()) == list(temporary.iterdir()) == []
    assert left_of(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_one_that_is_stopped_half_way_leaves_nothing_either(tmp_path, number):
    """While Spark starts, which is when somebody loses patience."""
    temporary = tmp_path / "t"
    temporary.mkdir()
    with subprocess.Popen(
        [*COMMAND, *SMALL], cwd=tmp_path, env=environment(temporary),
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        for line in process.stderr:
            if line.startswith("hof serve"):
                break
        time.sleep(3)
        process.send_signal(number)
        process.communicate(timeout=_DONE_S)

    assert process.returncode not in (0, -signal.SIGKILL)
    assert list(temporary.iterdir()) == []
    assert left_of(temporary) == []


def left_of(folder):
    """What still runs in a folder, or did when it was there; none after a moment."""
    for _ in range(50):
        found = [each.info for each in psutil.process_iter(["name", "cwd"])]
        left = [info for info in found if (info["cwd"] or "").startswith(f"{folder}/")]
        if not left:
            break
        time.sleep(0.1)
    return left


def test_without_java_it_says_how_to_get_one(tmp_path):
    """Before anything is started."""
    kept = environment(tmp_path, PATH=str(tmp_path))
    kept.pop("JAVA_HOME", None)
    done = subprocess.run(
        COMMAND, cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert done.stderr.startswith("HOF-601: Java is missing")
    assert "Debian: default-jre-headless" in done.stderr
