import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from hofflight.errors import HofError
from hofflight.server.access import require_safe_bind
from hofflight.settings import ServerSettings

def judged(**settings):
    try:
        return require_safe_bind(ServerSettings(**settings))
    except HofError as error:
        return error.code

print(json.dumps([judged(**settings) for settings in json.loads(sys.argv[1])]))
"""
TLS = {"tls_certificate": "c", "tls_key": "k"}
REFUSED = ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "example.org:1", "127.0.0.1.example.org:1"]
NO_ADDRESS = ["8817", "localhost", "localhost:http", "localhost:70000", "localhost:-1", ":1", ""]
CASES = [
    *(({"grpc": a}, False) for a in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:1", "localhost:1"]),
    *(({"grpc": a}, "HOF-602") for a in REFUSED),
    *(({"grpc": a}, "HOF-601") for a in NO_ADDRESS),
    *(({"grpc": a, **TLS}, "HOF-602") for a in REFUSED),
    *(({"grpc": a, "tokens": ["t"]}, "HOF-602") for a in REFUSED),
    *(({"grpc": a, "tokens": ["t"], **TLS}, False) for a in REFUSED),
    *(({"grpc": a, "insecure": True}, True) for a in REFUSED),
    ({"grpc": "127.0.0.1:1", "insecure": True}, False),
]


@pytest.fixture(scope="module")
def verdicts():
    """Whether each case's bind is exposed by wish, or the code it is refused with."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([settings for settings, _ in CASES])],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(run.stdout)


@pytest.mark.parametrize("case", range(len(CASES)), ids=[str(settings) for settings, _ in CASES])
def test_only_loopback_or_tls_with_tokens_or_an_explicit_wish_may_bind(verdicts, case):
    assert verdicts[case] == CASES[case][1]
