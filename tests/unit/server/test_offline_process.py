"""The process that works for a client: what it is told, what of it is passed on, how it ends."""

import asyncio
import json
import os
import sys
from pathlib import Path

import msgspec
import pytest

from hofflight.errors import (
    BadRange,
    BadRequest,
    CodeNotLoaded,
    InternalError,
    Overloaded,
)
from hofflight.server.offline_process import OfflineProcess

# In the place of `hof`: prints its arguments, or does what the view's name says.
PROGRAM = """
import json, os, sys, time
verb, view = sys.argv[1], sys.argv[-1]
if view.startswith("wait"):
    open("pid", "w").write(str(os.getpid()))
    time.sleep(60)
if view == "refused":
    print("reading: 1 of 2", "HOF-215: it has no zone Hint: add one", sep="\\n", file=sys.stderr)
    sys.exit(1)
if view == "unloaded":
    sys.exit("HOF-504: a: b Hint: --modules c")
if view == "crashed":
    sys.exit("Traceback (most recent call last): /secret/path.py")
if view == "different":
    print('{"mismatches": 1}')
    sys.exit(1)
if verb == "train":
    import pyarrow as pa
    out = sys.argv[sys.argv.index("--out") + 1]
    table = pa.table({"n": range(20_000)})
    with pa.OSFile(out, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    open("out", "w").write(out)
print(json.dumps(sys.argv[1:]))
"""


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Runs the program above in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    Path("program.py").write_text(PROGRAM)
    return OfflineProcess([sys.executable, "program.py"], tmp_path / "store", ["a", "b.c"])


def verified(offline, **body):
    return json.loads(asyncio.run(offline.verify(json.dumps({"view": "v", **body}).encode())))


def trained(offline, **ticket):
    async def train():
        async with offline.train(json.dumps({"view": "v", **ticket}).encode()) as (_, batches):
            return [batch.num_rows for batch in batches]

    return asyncio.run(train())


def test_verify_is_told_store_modules_and_view(offline, tmp_path):
    """The view stands last, where no value of a client can be read as an option."""
    assert verified(offline, version=3) == [
        "verify", "--json", "--store", str(tmp_path / "store"), "--modules", "a,b.c", "v@3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "option"),
    [
        ({"since": "--json"}, "--since=--json"),
        ({"since": 0}, "--since=1970-01-01T00:00:00+00:00"),
        ({"since": 1_700_000_000_000_001}, "--since=2023-11-14T22:13:20.000001+00:00"),
        ({"sample": 1e-9}, "--sample=1e-09"),
        ({"explain": "-h"}, "--explain=-h"),
    ],
)
def test_an_option_and_its_value_are_one_word(offline, body, option):
    """Microseconds become text: the command line reads no others."""
    assert verified(offline, **body)[4] == option


def test_training_batches_are_small_and_their_file_is_removed(offline):
    """A message must not be as large as a table."""
    assert trained(offline) == [8_192, 8_192, 3_616]
    assert not Path(Path("out").read_text()).parent.exists()


def test_labels_are_handed_over_as_a_file_that_is_removed(offline):
    """The command reads an Arrow file, wherever the table came from."""
    body = msgspec.msgpack.encode({"view": "v", "table": b"x"})
    verb, *_, view, file = json.loads(asyncio.run(offline.label(body)))

    assert (verb, view, Path(file).suffix) == ("label", "v", ".arrow")
    assert not Path(file).exists()


@pytest.mark.parametrize(
    ("view", "kind", "said"),
    [
        ("refused", BadRange, "HOF-215: it has no zone Hint: add one"),
        ("unloaded", CodeNotLoaded, "HOF-504: a: b Hint: --modules c"),
    ],
)
def test_an_error_of_ours_is_raised_again_as_it_was(offline, view, kind, said):
    """Class, words and hint."""
    with pytest.raises(kind) as raised:
        verified(offline, view=view)

    assert str(raised.value) == said


def test_of_any_other_failure_nothing_is_passed_on(offline):
    """A traceback has paths in it."""
    with pytest.raises(InternalError) as raised:
        verified(offline, view="crashed")

    assert "secret" not in str(raised.value)


def test_what_verify_printed_counts_though_it_ended_with_1(offline):
    """It does so at a difference."""
    assert verified(offline, view="different") == {"mismatches": 1}


@pytest.mark.parametrize(
    "body",
    [
        {"view": ""}, {"view": "-v"}, {"view": "v@1"}, {"view": "V"}, {"view": "a" * 64},
        {"view": 7}, {"version": 0}, {"version": -1}, {"version": 10**9}, {"version": 10**30},
        {"version": True}, {"since": "a\0b"}, {"explain": "\0"}, {"sample": "0.5"},
        {"sample": float("nan")}, {"store": "/tmp"}, {"since": "x" * 9_000},
    ],
)  # fmt: skip
def test_what_no_command_line_should_hold_is_refused_before(offline, body):
    """No process is started for it."""
    with pytest.raises(BadRequest, match="HOF-200"):
        verified(offline, **body)


@pytest.mark.parametrize("moment", [10**18, -(10**18), 2**63 - 1])
def test_microseconds_beyond_any_calendar_are_no_time(offline, moment):
    """They have no text."""
    with pytest.raises(BadRange, match="HOF-215: --from"):
        trained(offline, start=moment)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"view": "v"})])
def test_a_body_of_label_that_is_none_is_refused(offline, body):
    """It is msgpack, not JSON."""
    with pytest.raises(BadRequest, match="HOF-200"):
        asyncio.run(offline.label(body))


async def started():
    """The id of the process that waits."""
    while not (Path("pid").exists() and Path("pid").read_text()):  # noqa: ASYNC110, ASYNC240 a test
        await asyncio.sleep(0.01)
    return int(Path("pid").read_text())  # noqa: ASYNC240 a test


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_second_one_is_refused_and_a_cancelled_one_is_killed(offline):
    """Then the next has its turn."""

    async def two():
        first = asyncio.create_task(offline.verify(b'{"view": "wait"}'))
        pid = await started()
        with pytest.raises(Overloaded, match="HOF-301") as refused:
            await offline.verify(b'{"view": "v"}')
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return pid, refused.value, await offline.verify(b'{"view": "v"}')

    pid, refused, after = asyncio.run(two())

    assert refused.retry_after_ms > 0
    assert not is_alive(pid)
    assert json.loads(after)[0] == "verify"
