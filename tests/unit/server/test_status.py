import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json
from hofflight.errors import by_code
from hofflight.server.status import status_of
long = "\\u20ac" * 9_000
statuses = {
    code: [status_of(kind(long, retry_after_ms=70))[i] for i in (1, 2)]
    + [status_of(kind("m"))[0].name, dict(status_of(kind("m"))[2])]
    for code, kind in by_code().items()
}
print(json.dumps(statuses))
"""


@pytest.fixture(scope="module")
def statuses():
    """By code: details and trailers of a long retryable message; status, trailers of a short."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=Path(__file__).parents[3],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(run.stdout)


def test_kinds_of_errors_have_the_status_that_generic_clients_understand(statuses):
    expected = {
        "HOF-100": "FAILED_PRECONDITION", "HOF-107": "FAILED_PRECONDITION",
        "HOF-200": "INVALID_ARGUMENT", "HOF-201": "NOT_FOUND", "HOF-202": "INVALID_ARGUMENT",
        "HOF-212": "UNAUTHENTICATED", "HOF-213": "UNIMPLEMENTED", "HOF-301": "RESOURCE_EXHAUSTED",
        "HOF-302": "DEADLINE_EXCEEDED", "HOF-303": "UNAVAILABLE", "HOF-304": "UNAVAILABLE",
        "HOF-504": "FAILED_PRECONDITION", "HOF-900": "INTERNAL",
    }  # fmt: skip

    assert {code: statuses[code][2] for code in expected} == expected


def test_every_error_has_a_status_and_its_code_in_the_trailers(statuses):
    assert {s[2] for s in statuses.values()}.isdisjoint({"OK", "UNKNOWN", "CANCELLED"})
    assert all(s[3] == {"hof-code": code} for code, s in statuses.items())


def test_a_retry_hint_is_told_in_both_ways(statuses):
    trailers = dict(statuses["HOF-301"][1])

    assert (trailers["retry-after-ms"], trailers["grpc-retry-pushback-ms"]) == ("70", "70")


def test_a_long_message_is_cut_to_what_clients_accept(statuses):
    for details, *_ in statuses.values():
        assert len(details.encode()) * 3 < 8 * 1024
