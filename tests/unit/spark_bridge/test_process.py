"""An application as a process beside ours. Real processes, small ones in the place of `hof`."""

import inspect
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from hofflight.errors import SettingsError, StoreLocked, WorkerStopped
from hofflight.spark_bridge.process import SparkProcess

ROOT = Path(__file__).parents[3]
READY = """
import os, signal, sys, threading, time
from hofflight.spark_bridge.supervisor import end_with_parent
def ready():
    print('{"groups": ["g"], "partitions": [0]}', flush=True)
"""
WORKS = """
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
ready()
stop.wait()
print("in good order", flush=True)
"""
# A program that is killed, and the application that it started.
PROGRAM = """
import sys, time
from tests.unit.spark_bridge.test_process import started
running = started("end_with_parent(lambda: os._exit(3)); ready(); time.sleep(60)")
print(running._process.pid, flush=True)
time.sleep(60)
"""


def started(application, **options):
    command = [sys.executable, "-c", READY + textwrap.dedent(application)]
    return SparkProcess(["g"], command, {**os.environ, "PYTHONPATH": str(ROOT)}, **options)


def test_it_is_given_when_it_is_ready_and_stopped_in_good_order(capsys):
    running = started(WORKS)
    with running as entered:
        assert entered is running
        assert (running.is_running, running.exit_code, running.wait(0.01)) == (True, None, False)
        assert re.fullmatch(r"<Spark answers g: process \d+>", repr(running))

    assert (running.is_running, running.exit_code, running.wait()) == (False, 0, True)
    assert repr(running) == "<Spark answers g: ended with 0>"
    assert capsys.readouterr().err == "in good order\n"
    running.stop()  # again: nothing


@pytest.mark.parametrize(
    ("said", "code", "error", "hint"),
    [
        ("HOF-501: process 7 is writing this store Hint: stop it", 1, StoreLocked, "stop it"),
        ("HOF-601: no brokers: none Hint: --kafka", 2, SettingsError, "--kafka"),
    ],
)
def test_an_application_that_does_not_start_says_why(said, code, error, hint):
    with pytest.raises(error) as caught:
        started(f"""
            print("a warning of Java's", file=sys.stderr)
            print({said!r}, file=sys.stderr)
            sys.exit({code})
            """)
    assert (str(caught.value), caught.value.hint) == (said, hint)


def test_one_that_does_not_say_why_is_an_error_with_its_last_words():
    with pytest.raises(WorkerStopped, match=r"HOF-514: hof spark ended with 3; .*\nso long"):
        started("print('so long'); sys.exit(3)")


def test_one_that_is_not_ready_in_time_is_ended():
    before = threading.active_count()
    with pytest.raises(WorkerStopped, match=r"not ready after 1 s"):
        started("time.sleep(60)", start_s=1.0)
    assert threading.active_count() == before


def test_a_copy_of_a_large_log_may_take_half_an_hour_at_the_start():
    """Before it is ready, each partition that was never here comes from its copy."""
    parameters = inspect.signature(SparkProcess).parameters
    assert parameters["start_s"].default == 1_800


def test_one_that_ends_by_itself_is_heard_of_by_whoever_waits():
    running = started("ready(); print('HOF-508: rows are gone', file=sys.stderr); sys.exit(1)")
    with pytest.raises(Exception, match="HOF-508: rows are gone"):
        running.wait(30)
    assert running.exit_code == 1
    running.stop()

    running = started("ready(); sys.exit(0)")
    assert running.wait(30)
    running.stop()


def test_a_program_without_a_standard_error_does_no_harm_to_it(monkeypatch):
    """Else it would die of what it wants to say."""
    with Path(os.devnull).open("w") as closed:
        pass
    for stderr in (closed, None):
        monkeypatch.setattr(sys, "stderr", stderr)
        with started("print('one', flush=True)" + WORKS) as running:
            assert running.is_running
        assert running.exit_code == 0


def test_what_it_died_of_is_not_what_an_earlier_start_said_well():
    """The last error counts, and a later line that is none leaves it."""
    running = started("""
        ready()
        print("HOF-512: no broker", file=sys.stderr)
        ready()
        print("HOF-508: rows are gone", "the end", sep="\\n", file=sys.stderr)
        sys.exit(1)
        """)
    with pytest.raises(Exception, match="HOF-508"):
        running.wait(30)
    running.stop()


def test_whoever_waits_hears_nothing_bad_of_one_that_was_stopped():
    """However it took the end."""
    running = started("signal.signal(signal.SIGTERM, lambda *_: os._exit(9)); ready()\nwhile 1: 0")
    thread = threading.Timer(0.2, running.stop)
    thread.start()
    assert running.wait(30)
    thread.join()
    assert running.exit_code == 9


@pytest.mark.parametrize("hears", ["second", "none"])
def test_one_that_does_not_stop_is_made_to(hears):
    running = started(f"""
        def first(*_):
            signal.signal(signal.SIGTERM, second)
        def second(*_):
            if {hears == "second"}:
                os._exit(1)
        signal.signal(signal.SIGTERM, first)
        ready()
        while True:
            time.sleep(0.01)
        """, stop_s=0.2, end_s=0.5)  # fmt: skip
    running.stop()
    assert running.exit_code == (1 if hears == "second" else -signal.SIGKILL)


def test_it_lives_no_longer_than_the_program_that_started_it():
    """Also one that is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as program:
        pid = int(program.stdout.readline())
        os.kill(pid, 0)
        program.kill()

    end_s = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end_s, "it is still there"
        time.sleep(0.02)
