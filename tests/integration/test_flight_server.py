"""The server of a fake worker, from the side of its clients; bad input is in tests/faults."""

import base64
import json
import signal
import stat
import time
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import flight

from hofflight import limits
from hofflight.client.client import connect
from hofflight.wire.envelope import read_answer
from tests.unit.server.running_server import INPUT, Exchange, RunningServer, action, batch

TLS = Path(__file__).parent / "tls"
OUTPUT_NAMES = ["g.card", "g.twice", "g.text"]


@pytest.fixture(scope="module")
def server():
    with RunningServer() as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as connected:
        yield connected


def path(*parts):
    return flight.FlightDescriptor.for_path(*parts)


# --- exchange -------------------------------------------------------------------------------------


def test_a_batch_is_answered_with_the_views_columns_and_its_own_id(client):
    with Exchange(client, "echo") as exchange:
        rows, meta = exchange.ask(batch(1.5, 2.0), id=b"i" * 16)

    assert rows.to_pydict()["g.twice"] == [3.0, 4.0]
    assert (meta.code, meta.id, meta.view, meta.version) == ("OK", b"i" * 16, "echo", 2)


def test_the_reader_has_the_output_schema_before_any_answer(client):
    with Exchange(client, "echo") as exchange:
        assert exchange.reader.schema.names == OUTPUT_NAMES


def test_a_request_without_metadata_gets_an_id(client):
    with Exchange(client, "echo") as exchange:
        exchange.writer.write_batch(batch())
        first = exchange.receive()[1].id
        exchange.writer.write_batch(batch())
        second = exchange.receive()[1].id

    assert len(first) == len(second) == 16
    assert first != second


def test_a_version_can_be_asked_for(client):
    with Exchange(client, "echo", "1") as exchange:
        assert exchange.ask()[1].version == 1


def test_a_hundred_requests_written_ahead_are_answered_in_order(client):
    ids = [number.to_bytes(16, "big") for number in range(100)]
    with Exchange(client, "thread") as exchange:
        for own in ids:
            exchange.send(id=own)

        assert [exchange.receive()[1].id for _ in ids] == ids


def test_store_and_deadline_reach_the_worker(client):
    with Exchange(client, "echo") as exchange:
        plain, _ = exchange.ask()
        told, _ = exchange.ask(store=False, deadline_ms=1_000)

    assert plain["g.text"][0].as_py() == "store=True deadline=False"
    assert told["g.text"][0].as_py() == "store=False deadline=True"


def test_the_deadline_of_the_call_reaches_the_worker(client):
    with Exchange(client, "echo", options=flight.FlightCallOptions(timeout=30)) as exchange:
        assert exchange.ask()[0]["g.text"][0].as_py() == "store=True deadline=True"


def test_half_closing_ends_the_stream_after_the_last_answer(client):
    with Exchange(client, "slow") as exchange:
        exchange.send()
        exchange.writer.done_writing()
        assert exchange.receive()[1].code == "OK"

        with pytest.raises(StopIteration):
            exchange.reader.read_chunk()


def test_requests_of_many_streams_meet_in_one_submit(server):
    exchanges = [Exchange(server.client(), "echo") for _ in range(24)]
    for _ in range(30):
        for exchange in exchanges:
            exchange.send()
        for exchange in exchanges:
            assert exchange.receive()[1].code == "OK"
    for exchange in exchanges:
        exchange.writer.close()

    assert max(server.metrics()["batches"]) > 1


def test_120_streams_need_no_thread_each(server):
    client = server.client()
    before = server.metrics()["threads"]
    exchanges = [Exchange(client, "echo") for _ in range(120)]
    for exchange in exchanges:
        exchange.send()
    assert all(exchange.receive()[1].code == "OK" for exchange in exchanges)

    counted = server.metrics()

    assert counted["streams_open"] >= 120
    assert counted["threads"] - before < 10
    for exchange in exchanges:
        exchange.writer.close()


def test_the_echo_sends_back_batch_and_metadata(client):
    rows = batch(1.0, 2.0, 3.0)
    with Exchange(client, "hof.echo") as exchange:
        exchange.send(rows, b"anything")
        chunk = exchange.reader.read_chunk()

    assert chunk.data.equals(rows)
    assert chunk.app_metadata.to_pybytes() == b"anything"


# --- put ------------------------------------------------------------------------------------------


def test_do_put_confirms_each_batch_and_says_which_failed(client):
    writer, results = client.do_put(path("echo"), INPUT)
    codes = []
    for amounts in ([1.0], [13.0], [2.0, 3.0]):
        writer.write_batch(batch(*amounts))
        codes.append(read_answer(results.read().to_pybytes()).code)
    writer.close()

    assert codes == ["OK", "HOF-209", "OK"]


def test_do_put_to_an_unknown_view_is_refused(client):
    writer, results = client.do_put(path("nobody"), INPUT)

    assert results.read() is None
    with pytest.raises(pa.ArrowKeyError, match="HOF-201"):
        writer.close()


# --- discovery ------------------------------------------------------------------------------------


def test_list_flights_names_every_view_and_version(client):
    listed = [[part.decode() for part in info.descriptor.path] for info in client.list_flights()]

    assert listed[:3] == [["echo", "1"], ["echo", "2"], ["thread", "1"]]


def test_flight_info_has_output_schema_input_schema_versions_and_limits(client):
    info = client.get_flight_info(path("echo"))
    told = json.loads(info.app_metadata)
    input_schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(told.pop("input_schema"))))

    assert info.schema.names == OUTPUT_NAMES
    assert input_schema == INPUT
    assert told == {
        "view": "echo", "version": 2, "group": "g", "group_version": 3, "code_hash": "c0de",
        "limits": {"rows": limits.request_rows_max, "bytes": limits.message_bytes_max},
        "versions": [1, 2], "groups": ["g@3"], "keys": [],
    }  # fmt: skip


def test_our_client_hashes_the_keys_of_a_view_whose_rows_are_spread(server):
    with connect(f"grpc://127.0.0.1:{server.port}", deadline_ms=10_000) as ours:
        info = ours.view("spread")
        vector = ours.vector("spread", batch(1.5))
        (described,) = ours.describe("spread")["views"]

    assert (info.partition_key, info.partitions) == (("card",), 8)
    assert (described["partition_key"], described["partitions"]) == (["card"], 8)
    assert vector.to_dict()["g.twice"] == 3.0


def test_get_schema_gives_the_output_schema(client):
    assert client.get_schema(path("echo", "1")).schema.names == OUTPUT_NAMES


def test_actions_are_listed_and_answer(client):
    listed = [a.type for a in client.list_actions()]
    assert listed == ["health", "describe", "metrics", "verify", "label"]
    assert json.loads(action(client, "health")) == {"status": "SERVING"}
    described = json.loads(action(client, "describe"))["views"]
    assert described[0]["labels"] == ["is_fraud"]
    assert described[0]["input"][1] == {"name": "ts", "type": "timestamp[us, tz=UTC]"}
    one = json.loads(action(client, "describe", b'{"view": "slow"}'))["views"]
    assert [v["view"] for v in one] == ["slow"]


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("describe", b'{"view": "nobody"}', "HOF-201"),
        ("describe", b"{", "HOF-200"),
        ("describe", b'{"other": 1}', "HOF-200"),
        ("describe", b"[" * 100_000, "HOF-200"),
        ("shutdown", b"", "HOF-213"),
        ("verify", b'{"view": "echo"}', "HOF-213"),  # this server was given nobody to do it
    ],
)
def test_a_wrong_action_says_why(client, name, body, code):
    with pytest.raises((pa.ArrowException, KeyError), match=code):
        action(client, name, body)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.do_get(flight.Ticket(b"t")).read_all(),
        lambda client: client.authenticate_basic_token("user", "password"),
    ],
    ids=["DoGet", "Handshake"],
)
def test_what_is_not_served_says_so(client, call):
    with pytest.raises(NotImplementedError, match="HOF-213"):
        call(client)


def test_health_and_reflection_speak_standard_grpc(server):
    assert server.raw("health", [])["status"] == "SERVING"
    assert "DoExchange" in server.raw("reflection", [])["methods"]


# --- stopping -------------------------------------------------------------------------------------


def test_drain_ends_an_idle_stream_at_once_with_unavailable():
    with RunningServer() as server, Exchange(server.client(), "echo") as exchange:
        exchange.ask()
        started = time.monotonic()
        returned = server.stop()
        took = time.monotonic() - started

        with pytest.raises(flight.FlightUnavailableError, match="HOF-303"):
            exchange.reader.read_chunk()
    assert (returned, server.said["clean"]) == (0, True)
    assert server.said["seconds"] < 1
    assert took < 3


def test_drain_answers_what_is_under_way_and_refuses_new_streams():
    with RunningServer() as server:
        client = server.client()
        with Exchange(client, "slow") as exchange, Exchange(client, "echo") as idle:
            idle.ask()
            exchange.send(id=b"w" * 16)
            time.sleep(0.1)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(flight.FlightUnavailableError):
                idle.receive()
            assert json.loads(action(client, "health")) == {"status": "DRAINING"}
            options = flight.FlightCallOptions(timeout=5)
            with (  # the refusal may be there before the stream is
                pytest.raises(flight.FlightUnavailableError, match="HOF-303"),
                Exchange(client, "echo", schema=None, options=options) as late,
            ):
                late.reader.read_chunk()

            assert exchange.receive()[1].id == b"w" * 16
            with pytest.raises(flight.FlightUnavailableError, match="HOF-303"):
                exchange.reader.read_chunk()
        server.stop(signals=0)
    assert server.said["clean"] is True


def test_drain_gives_up_on_a_worker_that_never_answers():
    with (
        RunningServer(drain_timeout_ms=300) as server,
        Exchange(server.client(), "never") as exchange,
    ):
        exchange.send()
        time.sleep(0.1)
        assert server.stop() == 0

    assert server.said["clean"] is False
    assert server.said["seconds"] < 1.5


def test_a_second_sigterm_changes_nothing():
    with RunningServer() as server, Exchange(server.client(), "echo") as exchange:
        exchange.ask()
        assert server.stop(signals=2) == 0

    assert server.said["clean"] is True


# --- where it listens, and to whom ----------------------------------------------------------------


def test_a_unix_socket_serves_its_owner_alone_and_leaves_with_the_server(tmp_path):
    place = tmp_path / "flight.sock"
    with RunningServer(grpc_unix=place) as server:
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        with Exchange(server.client(f"grpc+unix://{place}"), "echo") as exchange:
            assert exchange.ask()[1].code == "OK"
        with RunningServer(grpc_unix=place) as second:
            assert "HOF-601" in second.said["error"]
        with Exchange(server.client(f"grpc+unix://{place}"), "echo") as exchange:
            assert exchange.ask()[1].code == "OK"


def test_the_socket_of_a_killed_server_is_taken_over(tmp_path):
    place = tmp_path / "flight.sock"
    with RunningServer(grpc_unix=place) as killed:
        killed.process.kill()
        killed.process.wait()
    assert place.exists()

    with (
        RunningServer(grpc_unix=place) as server,
        Exchange(server.client(f"grpc+unix://{place}"), "echo") as exchange,
    ):
        assert exchange.ask()[1].code == "OK"


def test_a_file_in_the_sockets_place_is_not_removed(tmp_path):
    place = tmp_path / "precious"
    place.write_text("data")
    with RunningServer(grpc_unix=place) as server:
        assert "not a socket" in server.said["error"]

    assert place.read_text() == "data"


def test_a_port_in_use_is_refused_with_the_fix(server):
    with RunningServer(grpc=f"127.0.0.1:{server.port}") as second:
        assert "HOF-601" in second.said["error"]
        assert "another port" in second.said["error"]


def test_an_address_that_others_reach_needs_tls_and_tokens():
    with RunningServer(grpc="0.0.0.0:0") as server:
        assert server.said["error"].startswith("HOF-602")


def test_insecure_binds_anywhere_and_says_so():
    with RunningServer(grpc="0.0.0.0:0", insecure=True) as server:
        assert json.loads(action(server.client(), "health")) == {"status": "SERVING"}

    assert "insecure" in server.log


@pytest.fixture(scope="module")
def guarded():
    files = {"tls_certificate": TLS / "certificate.pem", "tls_key": TLS / "key.pem"}
    with RunningServer(grpc="0.0.0.0:0", tokens=["one", "two"], **files) as running:
        yield running


def with_token(header):
    return flight.FlightCallOptions(headers=[(b"authorization", header)], timeout=10)


@pytest.mark.parametrize("header", [b"Bearer one", b"bearer two"])
def test_tls_and_a_token_let_a_client_in(guarded, header):
    client = guarded.client(
        f"grpc+tls://127.0.0.1:{guarded.port}",
        tls_root_certs=(TLS / "certificate.pem").read_bytes(),
    )
    with Exchange(client, "echo", options=with_token(header)) as exchange:
        assert exchange.ask()[1].code == "OK"


@pytest.mark.parametrize("view", ["echo", "hof.echo"])
@pytest.mark.parametrize("header", [None, b"Bearer three", b"Bearer", b"one", b"Basic one"])
def test_without_a_known_token_nothing_is_served(guarded, view, header):
    client = guarded.client(
        f"grpc+tls://127.0.0.1:{guarded.port}",
        tls_root_certs=(TLS / "certificate.pem").read_bytes(),
    )
    options = with_token(header) if header else flight.FlightCallOptions(timeout=10)
    with pytest.raises(flight.FlightUnauthenticatedError, match="HOF-212"):
        client.get_flight_info(path("echo"), options)
    with (
        pytest.raises(flight.FlightUnauthenticatedError),
        Exchange(client, view, options=options) as exchange,
    ):
        exchange.ask()


def test_a_client_without_tls_is_not_served(guarded):
    client = guarded.client()
    with pytest.raises(flight.FlightUnavailableError):
        client.get_flight_info(path("echo"), with_token(b"Bearer one"))


def test_a_missing_certificate_is_a_settings_error(tmp_path):
    with RunningServer(tls_certificate=tmp_path / "c", tls_key=tmp_path / "k") as server:
        assert "HOF-601: server.tls_key" in server.said["error"]
