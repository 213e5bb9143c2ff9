"""An application's process, and another one when it dies. Real processes, small ones."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from hofflight.spark_bridge.supervisor import DIED

ROOT = Path(__file__).parents[3]
# One in a process of its own: it takes signals. The application counts its starts in a file.
SUPERVISED = """
import sys
from hofflight.spark_bridge.supervisor import Supervisor
print("up", flush=True)
sys.exit(Supervisor([sys.executable, "-c", sys.argv[1], sys.argv[2]], backoff_s=0.01).run())
"""
STARTS = """
import os, signal, sys, time
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
start = len(open(sys.argv[1]).readlines())
"""


class Supervised:
    """A supervisor of `application`, whose variable `start` is the number of its start."""

    def __init__(self, path, application):
        self.path = path
        code = STARTS + textwrap.dedent(application)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISED, code, str(path)], cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def starts(self):
        return [int(line) for line in self.path.read_text().split()] if self.path.exists() else []

    def wait_for_start(self, number):
        return until(lambda: self.starts()[number - 1 :])[0]

    def code(self):
        try:
            self.process.communicate(timeout=30)
        finally:
            self.process.kill()
        return self.process.returncode


def until(found, seconds=30):
    """What a function gives, once it gives something."""
    end_s = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end_s, "it never came"
        time.sleep(0.01)
    return value


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def supervised(tmp_path):
    made = []

    def make(application):
        made.append(Supervised(tmp_path / "starts", application))
        return made[-1]

    yield make
    for one in made:
        one.process.kill()
        one.process.communicate()


@pytest.mark.parametrize(
    ("application", "code", "starts"),
    [
        ("sys.exit(0)", 0, 1),
        ("sys.exit(2)", 2, 1),
        ("sys.exit(1)", 1, 1),
        (f"sys.exit({DIED} if start < 3 else 0)", 0, 3),
        (f"sys.exit([{DIED}, 1, 0][start - 1])", 0, 3),
        (f"sys.exit({DIED} if start < 2 else 2)", 2, 2),
        ("os.kill(os.getpid(), signal.SIGKILL if start < 2 else 0)", 0, 2),
    ],
    ids=["well", "wrong setting", "first start", "died", "ran before", "wrong later", "killed"],
)
def test_it_starts_again_what_another_start_may_mend(supervised, application, code, starts):
    """And nothing else: a wrong setting stays wrong."""
    one = supervised(application)
    assert one.code() == code
    assert len(one.starts()) == starts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_application_and_supervisor_in_good_order(supervised, number):
    one = supervised("""
        def stop(*_):
            print("in good order")
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        while True:
            time.sleep(0.01)
        """)
    pid = one.wait_for_start(1)
    time.sleep(0.2)  # until it has its handler
    one.process.send_signal(number)
    assert one.code() == 0
    assert not is_running(pid)
    assert len(one.starts()) == 1


def test_an_application_that_did_not_end_well_when_it_was_told_to_is_said(supervised):
    """Nobody starts it again."""
    one = supervised("""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        while True:
            time.sleep(0.01)
        """)
    one.wait_for_start(1)
    time.sleep(0.2)
    one.process.send_signal(signal.SIGTERM)
    assert one.code() == DIED
    assert len(one.starts()) == 1


def test_an_application_lives_no_longer_than_its_supervisor(supervised):
    """Also one that is killed: two applications must not work one partition."""
    one = supervised("""
        from hofflight.spark_bridge.supervisor import end_with_parent
        end_with_parent(lambda: os._exit(3))
        while True:
            time.sleep(0.01)
        """)
    pid = one.wait_for_start(1)
    one.process.kill()
    until(lambda: not is_running(pid))


LEASHED = """
import sys, time
from hofflight.spark_bridge.supervisor import end_with_parent
def stop():
    print("told", flush=True)
    %s
end_with_parent(stop, patience_s=float(sys.argv[1]))
print("up", flush=True)
while True:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("patience_s", [0.0, 0.5])
def test_one_that_does_not_end_when_it_is_told_to_is_ended(patience_s):
    """Its main thread hangs; nobody who could kill it is there. It has some time, no less."""
    with subprocess.Popen(
        [sys.executable, "-c", LEASHED % "pass", str(patience_s)], cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "up\n"
        process.stdin.close()
        assert process.stdout.readline() == "told\n"
        told_s = time.monotonic()
        assert process.wait(30) == DIED == 75
        assert time.monotonic() - told_s > patience_s - 0.1


def test_one_that_ends_when_it_is_told_to_has_its_own_exit_code():
    """It is not waited for until its patience is over."""
    with subprocess.Popen(
        [sys.executable, "-c", LEASHED % "import os; os._exit(3)", "60"], cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "up\n"
        process.stdin.close()
        assert process.wait(30) == 3


def test_a_leashed_supervisor_ends_in_good_order_with_whoever_holds_its_input(tmp_path):
    """As `hof spark` does that a program started, also one that is killed."""
    path = tmp_path / "starts"
    leashed = """
        import sys
        from hofflight.spark_bridge.supervisor import Supervisor, end_with_parent
        supervisor = Supervisor([sys.executable, "-c", sys.argv[1], sys.argv[2]])
        end_with_parent(supervisor.stop)
        sys.exit(supervisor.run())
        """
    works = STARTS + "time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(leashed), works, str(path)], cwd=ROOT,
        stdin=subprocess.PIPE,
    ) as process:  # fmt: skip
        pid = int(until(lambda: path.exists() and path.read_text()))
        process.stdin.close()
        assert process.wait(30) == 0
        assert not is_running(pid)


def test_stop_in_a_pause_ends_it_at_once(tmp_path):
    """Between two starts there is nothing to end."""
    from hofflight.spark_bridge.supervisor import Supervisor

    path = tmp_path / "starts"
    code = STARTS + f"sys.exit({DIED})"
    supervisor = Supervisor([sys.executable, "-c", code, str(path)], backoff_s=60)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

    def stop():
        until(path.exists)
        time.sleep(0.2)
        supervisor.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        assert supervisor.run() == 0
    finally:
        thread.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert len(path.read_text().split()) == 1
