"""One fake server process for the client's tests; each test has its own client."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hofflight.client.client import connect

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def server_url():
    """A `fake_server.py` in its own process: what the client meets is a real Flight server."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "fake_server.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
    ) as process:
        yield f"grpc://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture
def client(server_url):
    with connect(server_url, deadline_ms=10_000) as connected:
        yield connected
