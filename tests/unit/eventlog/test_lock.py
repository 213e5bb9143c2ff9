"""One writing process per store: the second is told who the first is."""

import os
import subprocess
import sys

import pytest

from hofflight.errors import StoreLocked
from hofflight.eventlog.lock import StoreLock, read_holder

HOLD = """
import sys, pathlib
from hofflight.eventlog.lock import StoreLock
lock = StoreLock(pathlib.Path(sys.argv[1]))
lock.announce("grpc://127.0.0.1:8817")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the test's store."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_told_the_pid_and_address_of_the_first(tmp_path, holder):
    """So that the operator can connect to it, or stop it."""
    with pytest.raises(StoreLocked, match="HOF-501") as caught:
        StoreLock(tmp_path / "lock")

    assert f"process {holder.pid} " in str(caught.value)
    assert "grpc://127.0.0.1:8817" in str(caught.value)


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    """The kernel lets go of it; no stale file keeps a store shut."""
    holder.kill()
    holder.wait()

    StoreLock(tmp_path / "lock").release()


def test_a_refused_writer_does_not_free_or_rename_the_lock(tmp_path):
    """Trying is harmless to whoever holds it."""
    lock = StoreLock(tmp_path / "lock")
    for _ in range(3):
        with pytest.raises(StoreLocked, match=str(os.getpid())):
            StoreLock(tmp_path / "lock")

    assert read_holder(tmp_path / "lock")["pid"] == os.getpid()
    lock.release()
    StoreLock(tmp_path / "lock").release()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_lock_file_that_says_nothing_is_an_unknown_holder(tmp_path, content):
    """The refusal stands; only the name is missing."""
    (tmp_path / "lock").write_bytes(content)

    assert read_holder(tmp_path / "lock") == {}
    assert read_holder(tmp_path / "nothing") == {}
