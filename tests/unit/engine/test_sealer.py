"""The sealer looks, seals in a process of its own, says what went wrong, and ends when told to."""

import sys
import threading
import time

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.engine.sealer import Sealer

QUICKLY_S = 0.005


def program(text):
    return [sys.executable, "-S", "-c", text]


@pytest.fixture
def start():
    """Starts sealers that look every few milliseconds; stops them in the end."""
    started = []

    def start(text, *, is_due=lambda: True, sealed=lambda: None):
        sealer = Sealer(program(text), is_due=is_due, sealed=sealed, period_s=QUICKLY_S)
        started.append(sealer)
        return sealer

    yield start
    for sealer in started:
        sealer.stop()


def once():
    """True the first time only."""
    left = [True]
    return lambda: left.pop() if left else False


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(QUICKLY_S)
    return False


def test_what_is_due_is_sealed_and_then_said(start, tmp_path):
    """By the command, before `sealed` is called."""
    mark, done = tmp_path / "mark", threading.Event()
    seen = []

    def sealed():
        seen.append(mark.exists())
        done.set()

    start(f"open({str(mark)!r}, 'w').close()", is_due=once(), sealed=sealed)

    assert done.wait(20)
    assert seen == [True]


def test_what_is_not_due_is_left_alone(start, tmp_path):
    """However often it looks."""
    looks = []
    mark = tmp_path / "mark"
    start(f"open({str(mark)!r}, 'w').close()", is_due=lambda: looks.append(1))

    assert wait_for(lambda: len(looks) > 5)
    assert not mark.exists()


def test_a_seal_that_fails_is_a_warning_and_tried_again(start, tmp_path, capfd):
    """With what it said; `sealed` is not called for it."""
    mark, calls, done = tmp_path / "mark", [], threading.Event()
    text = f"""
import pathlib, sys
mark = pathlib.Path({str(mark)!r})
if not mark.exists():
    mark.touch()
    sys.exit("the disk is full")
"""
    start(text, is_due=lambda: not done.is_set(), sealed=lambda: (calls.append(1), done.set()))

    assert done.wait(20)
    assert calls == [1]
    said = capfd.readouterr()
    assert "seal_failed" in said.out + said.err
    assert "the disk is full" in said.out + said.err


def test_looking_that_fails_ends_nothing(start, capfd):
    """A damaged manifest today may be mended tomorrow."""
    looks, done = [], threading.Event()

    def is_due():
        looks.append(1)
        if len(looks) < 3:
            raise OSError("no manifest")
        return not done.is_set()

    start("pass", is_due=is_due, sealed=done.set)

    assert done.wait(20)
    said = capfd.readouterr()
    assert "no manifest" in said.out + said.err


def test_a_trim_that_fails_ends_nothing(start):
    """Sealing goes on."""
    calls, done = [], threading.Event()

    def sealed():
        calls.append(1)
        if len(calls) == 2:
            done.set()
        raise OSError("read-only")

    start("pass", is_due=lambda: not done.is_set(), sealed=sealed)
    assert done.wait(20)


def test_a_command_that_is_none_ends_nothing(capfd):
    """A missing interpreter is a warning."""
    looks = []
    sealer = Sealer(
        ["/no/such/program"], is_due=lambda: looks.append(1) or True, sealed=lambda: None,
        period_s=QUICKLY_S,
    )  # fmt: skip
    assert wait_for(lambda: len(looks) > 2)
    sealer.stop()
    said = capfd.readouterr()
    assert "seal_failed" in said.out + said.err


def test_stopping_ends_a_seal_under_way(start, tmp_path, capfd):
    """Soon, and without a warning: it was asked to."""
    mark = tmp_path / "mark"
    sealer = start(f"open({str(mark)!r}, 'w').close()\nimport time; time.sleep(60)")
    assert wait_for(mark.exists)
    before = time.monotonic()
    sealer.stop()

    assert time.monotonic() - before < 4
    assert not sealer._thread.is_alive()
    assert sealer._process.returncode not in (None, 0)
    said = capfd.readouterr()
    assert "seal_failed" not in said.out + said.err


def test_stopping_before_anything_was_due_is_quick(start):
    """Nothing runs, nothing is waited for."""
    sealer = start("pass", is_due=lambda: False)
    before = time.monotonic()
    sealer.stop()
    sealer.stop()

    assert time.monotonic() - before < 1
    assert not sealer._thread.is_alive()


@pytest.mark.parametrize(
    ("wanted", "is_sealed"),
    [({"seal_bytes": 1}, True), ({"seal_age_s": 1}, True),
     ({"seal_bytes": 1 << 40, "seal_age_s": 10**6}, False)],
)  # fmt: skip
def test_a_store_is_sealed_when_its_size_or_its_age_says_so(tmp_path, wanted, is_sealed):
    """By a process of its own, that needs the registry and no code; then nothing is due."""
    group = hof.feature_group(
        "g", version=1, key="k", event_time="ts",
        input={"k": pa.int64(), "ts": hof.TIMESTAMP}, windows={"n": hof.count().over("1h")},
    )  # fmt: skip
    settings = hof.load_settings(
        log={"seal_bytes": 0, "seal_age_s": 0, "seal_check_s": 1, **wanted}
    )
    with hof.open(tmp_path / "store", settings=settings) as app:
        app.register(group)
        app.ingest("g", [{"k": n, "ts": n} for n in range(50)])
        deadline_s = time.monotonic() + (30 if is_sealed else 2)
        while app.offline().sealed_to("g.1") < 1 and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert (app.offline().sealed_to("g.1") == 1) == is_sealed
