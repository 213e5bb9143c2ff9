"""The client against a real Flight server that misbehaves on purpose."""

import asyncio
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from hofflight.client.client import connect, connect_async
from hofflight.errors import (
    BadMetadata,
    BadRows,
    ConnectionLost,
    HofError,
    Indefinite,
    InternalError,
    NoAnswer,
    NotSupported,
    Overloaded,
    SchemaMismatch,
    TooLarge,
    UnknownView,
    Wedged,
)


def row(say=""):
    return {"key": 1, "say": say}


def streams(client, path="g"):
    """How many streams the server has seen for a path."""
    return client.describe()["streams"].get(path, 0)


# --- one answer ---


def test_a_vector_holds_rows_and_what_the_server_said_of_them(client):
    vector = client.vector("g", [row("a"), row("b")])

    assert vector.to_dict() == [{"g.say": "a", "g.seen": 1}, {"g.say": "b", "g.seen": 1}]
    assert (vector.view, vector.version, vector.code_hash) == ("g", 3, "c0de")
    assert vector.late == [False, True]
    assert vector.status == {"g.seen": "OVERFLOW"}
    assert len(vector.request_id) == 16


def test_the_default_deadline_travels_with_the_request(client):
    assert 9_000 < client.vector("g", row()).timings_us["engine"] <= 10_000
    assert client.vector("g", row(), deadline_ms=777).timings_us["engine"] <= 777


@pytest.mark.parametrize("given", [uuid.UUID(int=5), uuid.UUID(int=6).bytes])
def test_a_request_id_may_be_given_as_uuid_or_bytes(client, given):
    expected = given.bytes if isinstance(given, uuid.UUID) else given

    assert client.vector("g", row(), request_id=given).request_id == expected


@pytest.mark.parametrize("given", [b"short", "0" * 16, 7])
def test_any_other_request_id_is_refused(client, given):
    with pytest.raises(BadMetadata, match="16 bytes"):
        client.vector("g", row(), request_id=given)


@pytest.mark.parametrize(
    "options",
    [
        {"deadline_ms": 0},
        {"deadline_ms": 1.5},
        {"deadline_ms": True},
        {"version": 0},
        {"version": "1"},
        {"keys": {"k": object()}},
        {"keys": {"k": "x" * 70_000}},
    ],
)
def test_options_that_cannot_travel_are_refused_before_sending(client, options):
    with pytest.raises(BadMetadata):
        client.vector("g", row(), **options)


def test_a_request_that_no_server_takes_is_refused_before_sending(client):
    with pytest.raises(TooLarge, match="too many for one request"):
        client.vector("g", row("x" * 17_000_000))


# --- the stream ---


def test_one_stream_serves_all_requests_of_a_view(server_url):
    with connect(server_url) as client, ThreadPoolExecutor(8) as pool:
        before = streams(client, "g/2")
        says = [f"caller {number}" for number in range(200)]
        vectors = list(pool.map(lambda say: client.vector("g", row(say), version=2), says))

        assert [vector.to_dict()["g.say"] for vector in vectors] == says
        assert streams(client, "g/2") == before + 1


def test_answers_may_overtake_each_other(client):
    client.vector("g", row())
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.vector, "g", row("hold"))
        while not held.done():
            assert client.vector("g", row("after")).to_dict()["g.say"] == "after"
            time.sleep(0.01)

    assert held.result().to_dict()["g.say"] == "hold"


def test_large_requests_do_not_stand_in_each_others_way(client):
    with ThreadPoolExecutor(8) as pool:
        says = [str(number) * 200_000 for number in range(8)] * 3
        vectors = list(pool.map(lambda say: client.vector("g", row(say)), says))

    assert [vector.to_dict()["g.say"] for vector in vectors] == says


def test_closing_a_client_frees_who_waits_and_its_threads(server_url):
    client = connect(server_url, deadline_ms=10_000)
    client.vector("g", row())
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.vector, "g", row("hold"))
        time.sleep(0.1)
        client.close()
        with pytest.raises(ConnectionLost, match="closed"):
            held.result(timeout=5)
    client.close()

    with pytest.raises(ConnectionLost, match="closed"):
        client.vector("g", row(), deadline_ms=100)
    assert not [t.name for t in threading.enumerate() if t.name in {"hof-reader", "hof-writer"}]


def test_a_program_that_forgets_to_close_ends_quietly(server_url):
    code = f"import hofflight as hof; hof.connect({server_url!r}).vector('g', {row()!r})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert (run.returncode, run.stderr) == (0, "")


# --- errors and retries ---


def test_a_definite_error_is_final_and_typed(client):
    with pytest.raises(TooLarge, match="as you asked") as caught:
        client.vector("g", row("HOF-207"))

    assert caught.value.hint == "ask for less"
    assert len(caught.value.request_id) == 16
    again = client.vector("g", row(), request_id=caught.value.request_id)
    assert again.to_dict()["g.seen"] == 2


@pytest.mark.parametrize("once", ["HOF-301 once", "HOF-402 once", "drop once", "end once"])
def test_what_may_be_sent_again_is_sent_again_with_the_same_id(client, once):
    assert client.vector("g", row(once)).to_dict()["g.seen"] == 2


def test_a_refused_request_is_refused_in_the_end(client):
    client.vector("g", row())
    with pytest.raises((Overloaded, NoAnswer)) as caught:
        client.vector("g", row("HOF-301"), deadline_ms=1_500)

    # On a busy machine the last try may find no time; then the reason is its cause.
    refused = caught.value if isinstance(caught.value, Overloaded) else caught.value.__cause__
    assert refused.retry_after_ms == 7


def test_a_wedged_group_is_not_asked_for_ever(client):
    started = time.monotonic()
    with pytest.raises(Wedged):
        client.vector("g", row("HOF-305"))

    assert time.monotonic() - started < 5


def test_a_broken_stream_is_indefinite_and_the_next_call_works(client):
    client.vector("g", row())
    with pytest.raises(Indefinite) as caught:
        client.vector("g", row("drop"), deadline_ms=1_500)

    # On a busy machine the last try may find no time; then the reason is its cause.
    assert ConnectionLost in {type(caught.value), type(caught.value.__cause__)}
    assert client.vector("g", row("fine")).to_dict()["g.say"] == "fine"


def test_a_late_answer_is_no_answer_and_harms_no_other_request(client):
    client.vector("g", row())
    started = time.monotonic()
    with pytest.raises(NoAnswer) as caught:
        client.vector("g", row("slow"), deadline_ms=50)
    waited = time.monotonic() - started

    assert 0.05 <= waited < 0.3
    assert client.vector("g", row("next")).to_dict()["g.say"] == "next"
    again = client.vector("g", row("slow"), request_id=caught.value.request_id)
    assert again.to_dict()["g.seen"] == 2


def test_an_error_that_names_no_request_reaches_the_only_one_under_way(client):
    with pytest.raises(BadMetadata, match="as you asked"):
        client.vector("g", row("no id"))


def test_an_error_code_of_a_newer_server_keeps_its_family(client):
    with pytest.raises(HofError, match="HOF-999: as you asked"):
        client.vector("g", row("HOF-999"))
    with pytest.raises(InternalError):
        client.vector("g", row("HOF-900"))


def test_a_stream_refused_at_first_is_opened_again(client):
    assert client.vector("refused", row("x")).to_dict()["g.say"] == "x"


def test_an_unknown_view_is_told_from_the_status(client):
    with pytest.raises(UnknownView) as caught:
        client.vector("unknown", row())

    assert caught.value.message == "no view 'unknown' is served"
    assert caught.value.hint == "'g' is"


def test_no_error_shows_the_servers_traceback_or_paths(server_url):
    with connect(server_url, deadline_ms=300) as client, pytest.raises(HofError) as caught:
        client.view("broken")

    assert "Traceback" not in str(caught.value)
    assert "Detail" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_nobody_there_is_said_by_the_deadline():
    started = time.monotonic()
    with (
        connect("grpc://127.0.0.1:9", deadline_ms=300) as client,
        pytest.raises(ConnectionLost, match="refused"),
    ):
        client.vector("g", row())

    assert time.monotonic() - started < 5


# --- rows and schemas ---


def test_rows_that_do_not_fit_are_refused_before_sending(client):
    with pytest.raises(SchemaMismatch, match="'say' is missing"):
        client.vector("g", {"key": 1})
    with pytest.raises(BadRows, match="row 0, column 'key'"):
        client.vector("g", {"key": 1.0, "say": ""})


def test_zero_rows_are_the_servers_to_refuse(client):
    with pytest.raises(TooLarge):
        client.vector("g", [])


def test_a_changed_input_schema_is_learned_from_the_mismatch(client):
    new = {**row("x"), "added": 1}

    assert client.vector("moving", new).to_dict()["g.say"] == "x"
    assert client.vector("moving", new).to_dict()["g.say"] == "x"


# --- the other verbs ---


def test_ingest_counts_the_rows_taken(client):
    before = client.describe()["rows_put"]

    assert client.ingest("g", [row() for _ in range(25_000)]) == 25_000
    assert client.describe()["rows_put"] == before + 25_000


def test_ingest_again_with_the_same_id_counts_nothing_twice(client):
    rows = [row() for _ in range(15_000)]
    before = client.describe()["rows_put"]

    assert [client.ingest("g", rows, request_id=uuid.UUID(int=9)) for _ in "ab"] == [15_000] * 2
    assert client.describe()["rows_put"] == before + 15_000


def test_ingest_that_fails_midway_says_how_far_it_came(client):
    rows = [row()] * 10_000 + [row("HOF-207")] * 5

    with pytest.raises(TooLarge) as caught:
        client.ingest("g", rows)
    assert "10000 rows before were taken" in caught.value.__notes__[0]
    assert len(caught.value.request_id) == 16


def test_a_view_describes_itself(client):
    info = client.view("g")

    assert (info.name, info.version, info.group, info.group_version) == ("g", 3, "g", 2)
    assert info.input_schema.names == ["key", "say"]
    assert info.output_schema.names == ["g.say", "g.seen"]
    assert (info.limits, info.versions) == ({"rows": 100_000}, (1, 3))
    assert [view.name for view in client.views()] == ["g"]


def test_health_and_describe_are_plain_values(client):
    assert client.health() == {"status": "SERVING"}
    assert client.describe("g")["asked"] == '{"view": "g"}'


@pytest.mark.parametrize(("verb", "fix"), [("register", "hof register"), ("apply", "hof serve")])
def test_verbs_that_need_code_name_the_command_instead(client, verb, fix):
    with pytest.raises(NotSupported, match=fix):
        getattr(client, verb)(object())


def test_a_client_shows_its_url_and_never_its_token():
    with connect("grpc://localhost:1", token="open-sesame") as client:
        assert repr(client) == "<Client grpc://localhost:1>"
        assert "sesame" not in repr(client._session.address)


# --- asyncio ---


def test_asyncio_asks_many_at_once_on_one_stream(server_url):
    async def main():
        async with connect_async(server_url, deadline_ms=10_000) as client:
            vectors = await asyncio.gather(
                *[client.vector("g", row(str(number)), version=4) for number in range(300)]
            )
            seen = await client.describe()
            return [vector.to_dict()["g.say"] for vector in vectors], seen["streams"]["g/4"]

    assert asyncio.run(main()) == ([str(number) for number in range(300)], 1)


def test_asyncio_has_the_same_verbs_errors_and_retries(server_url):
    async def main():
        async with connect_async(server_url) as client:
            assert (await client.vector("g", row("drop once"))).to_dict()["g.seen"] == 2
            with pytest.raises(NoAnswer):
                await client.vector("g", row("slow"), deadline_ms=50)
            with pytest.raises(UnknownView):
                await client.view("unknown")
            assert await client.ingest("g", [row()] * 3) == 3
            assert (await client.view("g")).name == (await client.views())[0].name
            assert (await client.health())["status"] == "SERVING"

    asyncio.run(main())


def test_a_cancelled_task_leaves_the_stream_to_the_others(server_url):
    async def main():
        async with connect_async(server_url, deadline_ms=10_000) as client:
            await client.vector("g", row())
            slow = asyncio.create_task(client.vector("g", row("slow")))
            await asyncio.sleep(0.05)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            return (await client.vector("g", row("next"))).to_dict()["g.say"]

    assert asyncio.run(main()) == "next"


def test_both_clients_take_the_same_arguments():
    from inspect import signature

    from hofflight.client.client import AsyncClient, Client

    for verb in ("vector", "ingest", "view", "views", "describe", "health", "close"):
        blocking, awaited = (signature(getattr(kind, verb)) for kind in (Client, AsyncClient))
        assert blocking.parameters == awaited.parameters, verb
