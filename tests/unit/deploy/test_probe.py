"""The server of the manifest starts with its options, and the probe tells whether it serves."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.deploy.manifests import REPO, SERVE, arguments_of, container_of

HOF = [sys.executable, "-m", "hofflight.cli.main"]
TLS = REPO / "tests/integration/tls"


@pytest.fixture
def server(tmp_path):
    """`hof serve` as in the manifest, but for the places of files, a free port, and a store."""
    (tmp_path / "run").mkdir()
    for folder in ("tls", "tokens"):
        (tmp_path / "etc" / folder).mkdir(parents=True)
    shutil.copy(TLS / "certificate.pem", tmp_path / "etc/tls/tls.crt")
    shutil.copy(TLS / "key.pem", tmp_path / "etc/tls/tls.key")
    (tmp_path / "etc/tokens/tokens").write_text("a-token\n")
    options = [here(each, tmp_path) for each in arguments_of(SERVE) if "--kafka" not in each]
    command = [*HOF, *options]
    command += ["--json", "--store", str(tmp_path / "store")]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def here(text, folder):
    """The same with the places of the pod in a folder, at any free port of this machine alone."""
    places = {"/run/hofflight": folder / "run", "/etc/hofflight": folder / "etc",
              "0.0.0.0:8817": "127.0.0.1:0"}  # fmt: skip
    for place, moved in places.items():
        text = text.replace(place, str(moved))
    return text


def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOF_")}
    return {**kept, "PYTHONPATH": str(REPO)}


def probe(folder, name):
    """The exit code of a probe, its Unix socket being in the folder."""
    program, *rest = container_of(SERVE)[name]["exec"]["command"]
    assert program == "hof"
    command = [*HOF, *(here(each, folder) for each in rest)]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=30, check=False)
    return done.returncode


@pytest.mark.parametrize("name", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_a_probe_finds_the_server_that_serves(tmp_path, server, name):
    assert json.loads(server.stdout.readline())["address"].startswith("grpc+tls://127.0.0.1:")
    assert probe(tmp_path, name) == 0


def test_a_probe_finds_a_stopped_server_out(tmp_path, server):
    server.stdout.readline()
    server.send_signal(signal.SIGTERM)

    assert server.wait(30) == 0
    assert probe(tmp_path, "readinessProbe") != 0


def test_a_probe_finds_out_who_does_not_serve_yet(tmp_path):
    assert not Path(tmp_path / "run").exists()
    assert probe(tmp_path, "startupProbe") != 0
