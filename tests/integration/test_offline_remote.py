"""Training data, labels and parity over Flight, from a real `hof serve`."""

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import flight

import hofflight as hof
from hofflight.errors import BadLabels, BadRange, BadRequest, NotSupported, Unauthenticated
from tests.integration.test_cli import ended, environment, serving
from tests.integration.test_offline_cli import (
    FEATURE_NAMES,
    FEATURES,
    NOON_US,
    ROWS,
    change_a_sealed_answer,
    event,
    filled_place,
    id_of,
    in_order,
    vectors,
)

# While the file `held` is there, no process gets further than the import of the groups' module.
HELD = """
import time
from pathlib import Path

while Path("held").exists():
    time.sleep(0.02)
"""
WRONG = 5
TOKEN = "secret"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A filled store, one of whose sealed answers was changed."""
    place = filled_place(tmp_path_factory.mktemp("remote"))
    change_a_sealed_answer(place, WRONG, "n_10m", 99)
    (place.folder / "features.py").write_text(FEATURES + HELD)
    return place


@pytest.fixture(scope="module")
def server(place):
    """The server's process and its address; it asks for a token, and no test may cost it a bug."""
    (place.folder / "tokens").write_text(TOKEN)
    arguments = ("--modules", "features", "--token-file", "tokens")
    with serving(place.folder, *arguments) as (process, address):
        yield process, address
        with flight.connect(address) as client:
            metrics = act(client, "metrics", b"").decode().splitlines()
        (incidents,) = [line for line in metrics if "incidents" in line and line[0] != "#"]
        assert float(incidents.split()[-1]) == 0
        assert ended(process) == 0


@pytest.fixture
def client(server):
    with hof.connect(server[1], token=TOKEN, deadline_ms=20_000) as connected:
        yield connected


@pytest.fixture
def raw(server):
    """Flight without our client, which would ask again when it is refused."""
    with flight.connect(server[1]) as connected:
        yield connected


def options(timeout_s=60):
    headers = [(b"authorization", f"Bearer {TOKEN}".encode())]
    return flight.FlightCallOptions(headers=headers, timeout=timeout_s)


def table_of(client, ticket):
    return client.do_get(flight.Ticket(ticket), options()).read_all()


def act(client, name, body):
    (result,) = client.do_action((name, body), options())
    return result.body.to_pybytes()


def children(process):
    """Ids of the processes that the server started and that have not ended."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def until(condition):
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@contextmanager
def held(place):
    """Whatever offline process starts now waits until the end of this."""
    marker = place.folder / "held"
    marker.touch()
    try:
        yield
    finally:
        marker.unlink()


# --- the verbs ------------------------------------------------------------------------------------


def test_a_client_gets_the_table_that_was_served(client):
    """Microseconds, a datetime and text say the same moments; ids stand before the features."""
    table = client.training_data("fraud", version=1, ids=True)
    noon, end = datetime.fromtimestamp(NOON_US // 1_000_000, UTC), "2023-11-14T22:23:20Z"
    part = client.training_data("fraud", noon, end, split={"test": NOON_US + 480_000_000})
    same = client.training_data("fraud", NOON_US, NOON_US + 600_000_000, engine="kernel")

    served = vectors()
    assert table["request_id"].to_pylist() == [id_of(number) for number in in_order()]
    assert table.select(FEATURE_NAMES).to_pylist() == [served[number] for number in in_order()]
    assert part["split"].to_pylist() == ["train"] * 9 + ["test"]
    assert part.select(FEATURE_NAMES).equals(same.select(FEATURE_NAMES))


def test_a_client_loads_labels_that_its_next_table_has(client):
    """A frame, a table or rows, by request id here; bad ones are refused by their own code."""
    taken = client.label("fraud", [{"request_id": id_of(3), "is_fraud": True}])
    table = client.training_data("fraud", ids=True)
    with pytest.raises(BadLabels, match="no request id"):
        client.label("fraud", [{"request_id": "seven", "is_fraud": True}])

    assert taken == 1
    labels = dict(zip(table["request_id"].to_pylist(), table["is_fraud"].to_pylist(), strict=True))
    assert {id_ for id_, label in labels.items() if label is not None} == {id_of(3)}


def test_a_client_learns_which_answer_differs_and_why(client):
    """The explanation is asked for apart, of any request."""
    parity = client.verify("fraud")
    (wrong,), (right,) = parity.explain(id_of(WRONG)), parity.explain(id_of(7).hex())

    assert (parity.rows, parity.mismatches) == (ROWS, 1)
    assert parity.worst[0].request_id == id_of(WRONG).hex()
    assert (parity.worst[0].served, parity.worst[0].replayed) == (99, 3)
    assert wrong.features["n_10m"] == {"served": 99, "replayed": 3, "equal": False}
    assert len(wrong.windows["n_10m"]["events"]) == 3
    assert right.features["n_10m"]["equal"] is True
    with pytest.raises(AssertionError, match="HOF-700"):
        parity.assert_equal()


def test_the_verbs_can_be_awaited(server):
    """All but the explanation, which says what to use."""

    async def ask():
        async with hof.connect_async(server[1], token=TOKEN) as client:
            table = await client.training_data("fraud", NOON_US, NOON_US + 60_000_000)
            parity = await client.verify("fraud", since=datetime(2100, 1, 1, tzinfo=UTC))
            taken = await client.label("fraud", pa.table({"request_id": [], "is_fraud": []}))
            return table, parity, taken

    table, parity, taken = asyncio.run(ask())

    assert (table.num_rows, parity.rows, taken) == (1, 0, 0)
    with pytest.raises(NotSupported, match="HOF-213"):
        parity.explain(id_of(WRONG))


# --- one at a time --------------------------------------------------------------------------------


def test_a_second_one_is_refused_meanwhile_and_vectors_are_answered(place, server, client, raw):
    """Our own client waits for its turn and gets it."""
    with ThreadPoolExecutor() as pool:
        with held(place):
            first = pool.submit(table_of, raw, b'{"view": "fraud"}')
            until(lambda: children(server[0]))
            with pytest.raises(pa.ArrowException, match="HOF-301") as refused:
                act(raw, "verify", b'{"view": "fraud"}')
            waiting = pool.submit(client.verify, "fraud", sample=1e-9)
            vector = client.vector("fraud", event(0), store=False)
        assert first.result(60).num_rows == ROWS
        assert waiting.result(60).rows == 0

    assert "one at a time" in str(refused.value)
    assert vector.to_dict()["card_tx.amount"] == 0.5


def test_a_client_that_goes_away_takes_the_process_with_it(place, server):
    """The next one has its turn at once."""
    program = (
        "import sys, hofflight as hof\n"
        f"hof.connect(sys.argv[1], token={TOKEN!r}).training_data('fraud')\n"
    )
    with (
        held(place),
        subprocess.Popen([sys.executable, "-c", program, server[1]], env=environment()) as gone,
    ):
        until(lambda: children(server[0]))
        gone.kill()
        until(lambda: not children(server[0]))


def test_a_deadline_ends_the_process_too(place, server, raw):
    """As a client that has left does."""
    with held(place):
        started = threading.Thread(target=lambda: until(lambda: children(server[0])))
        started.start()
        with pytest.raises(flight.FlightTimedOutError):
            list(raw.do_action(("verify", b'{"view": "fraud"}'), options(timeout_s=1)))
        started.join()
        until(lambda: not children(server[0]))


def test_a_server_that_ends_takes_the_process_with_it(tmp_path):
    """It does not wait for a parity; its client asks the next server."""
    place = filled_place(tmp_path)
    (tmp_path / "features.py").write_text(FEATURES + HELD)
    with serving(tmp_path, "--modules", "features") as (process, address), held(place):
        with flight.connect(address) as client, ThreadPoolExecutor() as pool:
            asked = pool.submit(act, client, "verify", b'{"view": "fraud"}')
            until(lambda: children(process))
            (child,) = children(process)
            assert ended(process) == 0
            with pytest.raises(flight.FlightUnavailableError):
                asked.result(30)
        until(lambda: not Path(f"/proc/{child}").exists())


# --- whom and what it refuses ---------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "guess"])
def test_without_its_token_nobody_gets_training_data(server, token):
    """Nor parity, and no label is taken."""
    with hof.connect(server[1], token=token) as client:
        for ask in (
            lambda: client.training_data("fraud"),
            lambda: client.verify("fraud"),
            lambda: client.label("fraud", [{"request_id": id_of(0), "is_fraud": True}]),
        ):
            with pytest.raises(Unauthenticated, match="HOF-212"):
                ask()
    assert not children(server[0])


@pytest.mark.parametrize(
    ("ticket", "code"),
    [
        (b"", "HOF-200"),
        (b"not json", "HOF-200"),
        (b"\xff\xfe", "HOF-200"),
        (b"[" * 5_000, "HOF-200"),
        (b'{"view": "fraud", "as_of": "' + b"x" * 1_000_000 + b'"}', "HOF-200"),
        (b'{"view": "fraud", "labels": "/etc/passwd"}', "HOF-200"),
        (b'{"view": "--store=/tmp"}', "HOF-200"),
        (b'{"view": "fraud@1"}', "HOF-200"),
        (b'{"view": ""}', "HOF-200"),
        (b'{"view": "fraud", "version": 1' + b"0" * 30 + b"}", "HOF-200"),
        (b'{"view": "fraud", "version": -1}', "HOF-200"),
        (b'{"view": "fraud", "version": true}', "HOF-200"),
        (b'{"view": "fraud", "start": 1' + b"0" * 18 + b"}", "HOF-215"),
        (b'{"view": "fraud", "engine": "a\\u0000b"}', "HOF-200"),
        (b'{"view": "fraud", "as_of": "x"}', "HOF-103"),
        (b'{"view": "fraud", "engine": "--help"}', "HOF-103"),
        (b'{"view": "fraud", "start": "--help"}', "HOF-215"),
        (b'{"view": "fraud", "split": {"test": 2.0}}', "HOF-215"),
        (b'{"view": "nobody"}', "HOF-201"),
    ],
)
def test_a_hostile_ticket_is_an_error_of_ours(client, raw, ticket, code):
    """Vectors are answered after it as before."""
    with pytest.raises((pa.ArrowException, KeyError), match=code):
        table_of(raw, ticket)

    assert client.vector("fraud", event(0), store=False).to_dict()["card_tx.amount"] == 0.5


@pytest.mark.parametrize(
    ("action", "body", "code"),
    [
        ("verify", b'{"view": "fraud", "sample": NaN}', "HOF-200"),
        ("verify", b'{"view": "fraud", "sample": -1}', "HOF-215"),
        ("verify", b'{"view": "fraud", "explain": "--changed-code"}', "HOF-2"),
        ("verify", b'{"view": "fraud", "explain": "' + b"f" * 32 + b'"}', "HOF-201"),
        ("verify", b'{"view": "fraud", "explain": "\\u0000"}', "HOF-200"),
        ("label", b"", "HOF-200"),
        ("label", b"\xc1" * 100, "HOF-200"),
        ("label", b"\x82\xa4view\xa5fraud\xa5table\xc4\x03abc", "HOF-214"),
    ],
)
def test_a_hostile_body_is_an_error_of_ours(raw, action, body, code):
    """The same of the actions."""
    with pytest.raises((pa.ArrowException, KeyError), match=code):
        act(raw, action, body)


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        (lambda client: client.training_data("fraud", "2023-11-14T22:13:20"), BadRange),
        (lambda client: client.training_data("fraud", engine="spark"), hof.HofError),
        (lambda client: client.verify("fraud", sample=float("nan")), BadRequest),
        (lambda client: client.label("nobody", [{"is_fraud": True}]), hof.HofError),
    ],
)
def test_a_client_is_told_by_the_same_classes_as_in_process(client, ask, kind):
    """A program catches them alike."""
    with pytest.raises(kind, match=r"^HOF-[12]"):
        ask(client)
