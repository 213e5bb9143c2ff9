"""What clients do wrong: each is told so with a code, and server and other streams live on."""

import contextlib
import socket
import struct
import threading
import time

import pyarrow as pa
import pytest
from pyarrow import flight

from hofflight import limits
from hofflight.wire.envelope import read_answer
from hofflight.wire.flight_pb2 import FlightData, FlightDescriptor
from hofflight.wire.ipc import encode_batch, encode_schema
from hofflight.wire.message import _Message
from tests.unit.server.running_server import (
    INPUT,
    Exchange,
    RunningServer,
    action,
    batch,
    connected,
)

PATH = FlightDescriptor(type=FlightDescriptor.PATH, path=["echo"])
SCHEMA = encode_schema(INPUT)


@pytest.fixture(scope="module")
def server():
    with RunningServer(slow_reader_timeout_ms=1_000, rows_in_flight_max=2_000) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as connected_client:
        yield connected_client


@pytest.fixture(autouse=True)
def nobody_else_notices(server):
    """Another client's stream, opened before the fault, answers after it; no bug was met."""
    with Exchange(server.client(), "echo") as bystander:
        assert bystander.ask()[1].code == "OK"
        before = server.metrics()["incidents"]
        yield
        assert bystander.ask()[1].code == "OK"
        assert server.metrics()["incidents"] == before


@contextlib.contextmanager
def stream_ends_with(code, kind=(pa.ArrowException, flight.FlightError, KeyError)):
    with pytest.raises(kind, match=code) as raised:
        yield
    assert "Traceback" not in str(raised.value)


# --- how a stream begins --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (["nobody"], "HOF-201"),
        (["echo", "3"], "HOF-201"),
        (["echo", "0"], "HOF-201"),
        (["echo", "-1"], "HOF-201"),
        (["echo", "one"], "HOF-201"),
        (["echo", "9" * 5_000], "HOF-201"),
        (["x" * 100_000], "HOF-201"),
        (["echo", "1", "2"], "HOF-200"),
        (["old"], "HOF-504"),
    ],
)
def test_a_view_that_is_not_served_ends_the_stream(client, path, code):
    with Exchange(client, *path, schema=None) as exchange, stream_ends_with(code):
        exchange.reader.read_chunk()


def test_a_command_descriptor_is_refused(client):
    command = flight.FlightDescriptor.for_command(b"SELECT 1")
    with (
        Exchange(client, descriptor=command, schema=None) as exchange,
        stream_ends_with("HOF-213", NotImplementedError),
    ):
        exchange.reader.read_chunk()


@pytest.mark.parametrize(
    "schema",
    [
        INPUT.remove(1),
        INPUT.append(pa.field("more", pa.int64())),
        INPUT.append(INPUT.field(0)),
        pa.schema([INPUT.field(i) for i in (1, 0, 2, 3)]),
        pa.schema([INPUT.field(0).with_name("kard"), *list(INPUT)[1:]]),
        INPUT.set(0, pa.field("card", pa.int32())),
        INPUT.set(0, pa.field("card", pa.null())),
        INPUT.set(3, pa.field("shop", pa.dictionary(pa.int32(), pa.string()))),
        INPUT.set(3, pa.field("shop", pa.string_view())),
        INPUT.set(3, pa.field("shop", pa.run_end_encoded(pa.int32(), pa.string()))),
        INPUT.set(3, pa.field("shop", pa.dense_union([pa.field("a", pa.int64())]))),
        INPUT.set(3, pa.field("shop", pa.json_())),
        pa.schema([(f"c{i}", pa.int64()) for i in range(limits.columns_max + 1)]),
        pa.schema([]),
    ],
    ids=[
        "missing", "extra", "duplicate", "reordered", "renamed", "type", "null", "dictionary",
        "view", "run-end", "union", "extension", "too-many", "none",
    ],
)  # fmt: skip
def test_another_schema_ends_the_stream_and_names_the_columns(client, schema):
    with Exchange(client, "echo", schema=schema) as exchange, stream_ends_with("HOF-202"):
        exchange.reader.read_chunk()


def big_endian(schema):
    """The head of a schema message that announces big-endian bodies.

    Writers leave out the default, so the field is planted: it points at bytes that are not zero.
    """
    head = bytearray(encode_schema(schema))
    message = _Message(bytes(head))
    vtable = message.header - struct.unpack_from("<i", head, message.header)[0]
    struct.pack_into("<H", head, vtable + 4, message.field(message.header, 1) - message.header)
    return bytes(head)


def opening(**fields):
    return FlightData(flight_descriptor=PATH, **fields).SerializeToString()


@pytest.mark.parametrize(
    ("messages", "status", "code"),
    [
        ([], "INVALID_ARGUMENT", "HOF-200"),
        ([b"\xff\xff garbage"], "INVALID_ARGUMENT", "HOF-203"),
        ([FlightData(data_header=SCHEMA).SerializeToString()], "INVALID_ARGUMENT", "HOF-200"),
        ([FlightData(flight_descriptor=FlightDescriptor()).SerializeToString()],
         "INVALID_ARGUMENT", "HOF-200"),
        ([opening(data_header=encode_batch(batch())[0])], "INVALID_ARGUMENT", "HOF-203"),
        ([opening(), FlightData(app_metadata=b"m").SerializeToString()],
         "INVALID_ARGUMENT", "HOF-203"),
        ([opening(data_header=b"\x00" * 64)], "INVALID_ARGUMENT", "HOF-203"),
        ([opening(data_header=SCHEMA[:40])], "INVALID_ARGUMENT", "HOF-203"),
        ([opening(data_header=SCHEMA[:-60] + bytes(60))], "INVALID_ARGUMENT", "HOF-20[23]"),
        ([opening(data_header=SCHEMA + bytes(limits.header_bytes_max))],
         "INVALID_ARGUMENT", "HOF-207"),
        ([opening(data_header=SCHEMA), opening(data_header=SCHEMA)],
         "INVALID_ARGUMENT", "HOF-203"),
        ([opening(data_header=SCHEMA), b"\xff\xff garbage"], "INVALID_ARGUMENT", "HOF-203"),
    ],
    ids=[
        "nothing", "garbage", "no-descriptor", "empty-descriptor", "batch-first",
        "metadata-first", "zeros", "truncated", "overwritten", "long-header", "second-schema",
        "garbage-later",
    ],
)  # fmt: skip
def test_a_broken_protocol_ends_the_stream_with_a_status(server, messages, status, code):
    said = server.raw("DoExchange", messages)

    assert (said["status"], said["trailers"]["hof-code"][:6]) == (status, code[:6])
    assert said["details"].startswith("HOF-")


def test_big_endian_bodies_are_refused(server):
    said = server.raw("DoExchange", [opening(data_header=big_endian(INPUT))])

    assert "big-endian" in said["details"]


def test_descriptor_and_schema_may_come_in_one_message(server):
    head, body = encode_batch(batch(2.5))
    rows = FlightData(data_header=head, data_body=body).SerializeToString()

    said = server.raw("DoExchange", [opening(data_header=SCHEMA), rows])

    assert said["status"] == "OK"
    _, answer = (FlightData.FromString(m) for m in said["messages"])
    assert read_answer(answer.app_metadata).code == "OK"


def test_a_stream_that_ends_before_its_schema_ends_quietly(server):
    said = server.raw("DoExchange", [opening()])

    assert (said["status"], said["messages"]) == ("OK", [])


# --- bad batches are answered ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "meta",
    [
        b"not msgpack",
        b"\x81\xa1v\x02",
        b"\x81\xa2id\xc4\x03abc",
        b"\x81\xa5store\x01",
        b"\x81\xa7unknown\xc0",
        b"\x91" * 5_000,
        b"\x00" * limits.MIB,
        b"\x81\xabdeadline_ms\x00",
    ],
    ids=["text", "version", "short-id", "type", "unknown", "nested", "1-MB", "deadline"],
)
def test_bad_metadata_is_answered_and_the_stream_lives_on(client, meta):
    with Exchange(client, "echo") as exchange:
        rows, answer = exchange.ask(meta=meta)

        assert (answer.code, rows.num_rows) == ("HOF-204", 0)
        assert exchange.ask()[1].code == "OK"


def test_a_compressed_body_is_answered_with_the_fix(client):
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with Exchange(client, "echo", schema=None) as exchange:
        exchange.writer.begin(INPUT, options=options)
        rows, answer = exchange.ask(batch(*range(1, 12)))

        assert (answer.code, rows.num_rows) == ("HOF-203", 0)
        assert "compression=None" in answer.hint
        assert exchange.ask(batch(2.0))[1].code == "HOF-203"


def test_metadata_without_a_batch_is_answered(client):
    with Exchange(client, "echo") as exchange:
        exchange.writer.write_metadata(b"")
        assert exchange.receive()[1].code == "HOF-203"

        assert exchange.ask()[1].code == "OK"


@pytest.mark.parametrize("rows", [0, limits.request_rows_max + 1])
def test_no_row_and_too_many_rows_are_answered(client, rows):
    with Exchange(client, "echo") as exchange:
        assert (
            exchange.ask(batch().slice(0, 0) if rows == 0 else batch(*([1.0] * rows)))[1].code
            == "HOF-207"
        )

        assert exchange.ask()[1].code == "OK"


@pytest.mark.parametrize("head_at", range(0, 200, 17))
def test_a_header_with_a_flipped_byte_is_answered_or_ends_its_stream(server, head_at):
    head, body = encode_batch(batch())
    flipped = bytearray(head)
    flipped[head_at] ^= 0xFF
    bad = FlightData(data_header=bytes(flipped), data_body=body).SerializeToString()

    said = server.raw("DoExchange", [opening(data_header=SCHEMA), bad])

    assert said["status"] in {"OK", "INVALID_ARGUMENT"}


@pytest.mark.parametrize("kept", [0, 8, 32])
def test_a_truncated_body_is_answered(server, kept):
    head, body = encode_batch(batch())
    cut = FlightData(data_header=head, data_body=body[:kept]).SerializeToString()

    said = server.raw("DoExchange", [opening(data_header=SCHEMA), cut])

    answer = FlightData.FromString(said["messages"][1])
    assert read_answer(answer.app_metadata).code == "HOF-203"


def test_a_bad_request_among_good_ones_fails_alone(client):
    with Exchange(client, "echo") as exchange:
        for amount in (1.0, 13.0, 2.0):
            exchange.send(batch(amount))

        assert [exchange.receive()[1].code for _ in range(3)] == ["OK", "HOF-209", "OK"]


def test_the_echo_refuses_offsets_that_lie(server):
    head, body = encode_batch(batch())
    at = body.rindex(struct.pack("<ii", 0, 1))
    lying = body[:at] + struct.pack("<ii", 0, 1 << 30) + body[at + 8 :]
    path = FlightDescriptor(type=FlightDescriptor.PATH, path=["hof.echo"])
    first = FlightData(flight_descriptor=path, data_header=SCHEMA).SerializeToString()

    said = server.raw(
        "DoExchange", [first, FlightData(data_header=head, data_body=lying).SerializeToString()]
    )

    assert (said["status"], said["trailers"]["hof-code"]) == ("INVALID_ARGUMENT", "HOF-203")


def test_the_echo_refuses_types_whose_rows_take_no_bytes(client):
    nulls = pa.schema([("n", pa.null())])
    with Exchange(client, "hof.echo", schema=nulls) as exchange, stream_ends_with("HOF-202"):
        exchange.reader.read_chunk()


# --- too much -------------------------------------------------------------------------------------


def test_overload_is_an_answer_with_a_retry_hint_and_the_stream_lives_on(server):
    large = batch(*([1.0] * 300))  # six of them are 1,800 rows, a seventh is too much
    with contextlib.ExitStack() as stack:
        exchanges = [stack.enter_context(Exchange(server.client(), "slow")) for _ in range(12)]
        for exchange in exchanges:
            threading.Thread(target=exchange.send, args=(large,), daemon=True).start()
        answers = [exchange.receive()[1] for exchange in exchanges]
        refused = [a for a in answers if a.code != "OK"]

        assert {a.code for a in refused} == {"HOF-301"}
        assert 0 < len(refused) < 12
        assert all(a.retry_after_ms > 0 for a in refused)
        exchanges[0].send()
        assert exchanges[0].receive()[1].code == "OK"


def test_a_stream_too_many_is_refused_with_a_retry_hint():
    with RunningServer(streams_max=2) as small:
        with Exchange(small.client(), "echo") as first, Exchange(small.client(), "echo") as second:
            first.ask()
            second.ask()
            said = small.raw("DoExchange", [opening(data_header=SCHEMA)])

            assert said["status"] == "RESOURCE_EXHAUSTED"
            assert int(said["trailers"]["retry-after-ms"]) > 0
            assert first.ask()[1].code == second.ask()[1].code == "OK"
        with Exchange(small.client(), "echo") as third:
            assert third.ask()[1].code == "OK"


def test_a_message_beyond_the_limit_ends_its_stream(client):
    text = pa.array(["x" * (limits.message_bytes_max + limits.MIB)])
    rows = pa.RecordBatch.from_arrays(
        [pa.array([1]), pa.array([0], INPUT.field(1).type), pa.array([1.0]), text], schema=INPUT
    )
    with Exchange(client, "echo") as exchange, stream_ends_with("resource exhausted"):
        exchange.ask(rows)


def test_compressed_messages_are_refused(server):
    said = server.raw("DoExchange", [opening(data_header=SCHEMA)], gzip=True)

    assert said["status"] == "UNIMPLEMENTED"


def test_metadata_of_a_call_beyond_the_limit_is_refused(server):
    said = server.raw("DoExchange", [], metadata=[("x-large", "x" * 100_000)])

    assert said["status"] == "RESOURCE_EXHAUSTED"


# --- clients that leave, or stay away -------------------------------------------------------------


def test_what_was_answered_or_refused_is_no_longer_under_way(client):
    with Exchange(client, "echo") as exchange:
        for _ in range(12):  # 12 * 200 rows are more than may be under way
            assert exchange.ask(batch(*([1.0] * 200)))[1].code == "OK"
            assert exchange.ask(batch(*([13.0] * 200)))[1].code == "HOF-209"


def test_a_client_that_cancels_gives_back_what_it_held(server, client):
    for _ in range(8):  # 8 * 300 rows are more than may be under way
        with Exchange(server.client(), "slow") as exchange:
            exchange.send(batch(*([1.0] * 300)))
            wait_until(lambda: server.metrics()["streams_open"] == 2)
            time.sleep(0.05)
            exchange.reader.cancel()
        wait_until(lambda: server.metrics()["streams_open"] == 1)
    time.sleep(0.6)  # until the worker is done with it, though nobody waits

    with Exchange(client, "echo") as exchange:
        assert exchange.ask(batch(*([1.0] * 1_900)))[1].code == "OK"


def test_a_worker_that_is_not_done_keeps_the_share_of_a_client_that_left(server, client):
    with Exchange(client, "echo") as exchange, contextlib.ExitStack() as stack:
        leaving = [stack.enter_context(Exchange(server.client(), "slow")) for _ in range(6)]
        for other in leaving:  # 6 * 300 of 2,000 rows, for half a second
            other.send(batch(*([1.0] * 300)))
        time.sleep(0.05)
        for other in leaving:
            other.reader.cancel()

        assert exchange.ask(batch(*([1.0] * 1_000)))[1].code == "HOF-301"
        time.sleep(0.8)
        assert exchange.ask(batch(*([1.0] * 1_000)))[1].code == "OK"


def test_a_client_that_dies_leaves_no_stream(server):
    with connected(server.port) as raw:
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    wait_until(lambda: server.metrics()["streams_open"] <= 1)


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" * 500, b"\x00" * 70_000]
)
def test_garbage_on_the_port_is_dropped(server, garbage):
    with connected(server.port) as raw, contextlib.suppress(OSError):
        raw.sendall(garbage)
        while raw.recv(65_536):
            pass


def test_a_client_that_never_reads_costs_bounded_memory_and_is_disconnected(server):
    exchange = Exchange(server.client(), "big")
    before = server.rss_mib()
    ended = server.metrics()["slow_readers"]
    written = []

    def write():
        with contextlib.suppress(pa.ArrowException, flight.FlightError):
            while True:
                exchange.send()
                written.append(1)

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: server.metrics()["slow_readers"] > ended)
    grown = server.rss_mib() - before
    writer.join(10)

    assert not writer.is_alive(), "the connection was not closed"
    assert len(written) > 100, "the client was ahead by far more than fits into memory"
    assert grown < 60
    wait_until(lambda: server.metrics()["streams_open"] <= 1)


def test_a_reader_that_comes_back_in_time_learns_why_its_stream_ended(server):
    with Exchange(server.client(), "big") as exchange:
        ended = server.metrics()["slow_readers"]
        for _ in range(50):
            exchange.send()
        wait_until(lambda: server.metrics()["slow_readers"] > ended)

        with stream_ends_with("HOF-301"):
            while True:
                exchange.receive()


def wait_until(is_so, seconds=10):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


# --- our own bugs ---------------------------------------------------------------------------------


def test_a_bug_is_an_answer_with_an_incident_that_the_log_explains():
    with RunningServer() as broken:
        with Exchange(broken.client(), "bug") as exchange:
            _, answer = exchange.ask()
            again = exchange.ask()[1].code

        assert (answer.code, again) == ("HOF-900", "HOF-900")
        assert "secret" not in answer.error + answer.hint
        number = answer.error.split()[-1]
        assert action(broken.client(), "metrics").count(b'"incidents": 2') == 1
    assert number in broken.log
    assert "secret" in broken.log
