"""`hof` as a process of a demo's own: ready, ended in good order, never left behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hofflight.cli.server_process import hof_process
from hofflight.errors import HofError
from hofflight.settings import without_settings

REPO = Path(__file__).parents[3]
STARTS_ONE = """
import sys
from pathlib import Path
from hofflight.cli.server_process import hof_process
with hof_process(["serve", "--json", "--store", "store", "--grpc", "127.0.0.1:0"],
                 Path(sys.argv[1])) as server:
    print(server.said()["address"], flush=True)
    input()
"""


def environment():
    return {**without_settings(), "PYTHONPATH": str(REPO)}


def serving(folder):
    arguments = ["serve", "--json", "--store", "store", "--grpc", "127.0.0.1:0"]
    return hof_process(arguments, folder / "events", environment())


def test_it_says_what_it_prints_and_ends_in_good_order(tmp_path):
    with serving(tmp_path) as server:
        assert server.said()["address"].startswith("grpc://127.0.0.1:")

    assert eventually_none(tmp_path)


def test_one_that_does_not_start_is_an_error_with_its_last_words(tmp_path):
    with (
        pytest.raises(HofError, match=r"hof serve did not start.*\n.*--store DIR or --kafka"),
        hof_process(["serve", "--json"], tmp_path / "events", environment()) as server,
    ):
        server.said()


def test_it_is_gone_when_we_fail_beside_it(tmp_path):
    def fail():
        with serving(tmp_path) as server:
            server.said()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert eventually_none(tmp_path)


def test_it_ends_with_whoever_started_it_even_killed(tmp_path):
    command = [sys.executable, "-c", STARTS_ONE, str(tmp_path / "events")]
    with subprocess.Popen(
        command, cwd=REPO, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline().startswith(b"grpc://")
        assert of_folder(tmp_path) != []
        process.send_signal(signal.SIGKILL)

    assert eventually_none(tmp_path)


def eventually_none(folder):
    end_s = time.monotonic() + 20
    while of_folder(folder):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


def of_folder(folder):
    """Pids of what runs in a folder, and has not ended yet."""
    found = [each.info for each in psutil.process_iter(["pid", "cwd", "status"])]
    return [
        info["pid"]
        for info in found
        if info["cwd"] == str(folder) and info["status"] != psutil.STATUS_ZOMBIE
    ]
