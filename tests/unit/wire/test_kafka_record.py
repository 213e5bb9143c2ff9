"""Records of requests and answers: every byte comes back, and no byte of a stranger does harm."""

import tracemalloc

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight.errors import BadRecord
from hofflight.wire.ipc import encode_batch, encode_schema, join_message
from hofflight.wire.kafka_record import (
    END,
    NUDGE,
    AnswerHead,
    Framing,
    RequestHead,
    decode_answers,
    encode_answers,
)
from hofflight.wire.schema import TIMESTAMP

SCHEMA = pa.schema([("card", pa.int64()), ("ts", TIMESTAMP), ("name", pa.string())])
OTHER = pa.schema([("card", pa.int64()), ("ts", TIMESTAMP), ("name", pa.binary())])
pack = msgspec.msgpack.encode


def batch_of(*cards, schema=SCHEMA):
    rows = [{"card": card, "ts": card, "name": str(card) * (card % 5)} for card in cards]
    if schema is not SCHEMA:
        rows = [{**row, "name": row["name"].encode()} for row in rows]
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def message_of(*cards):
    return join_message(*encode_batch(batch_of(*cards)))


def request(call, message, **changes):
    fields = {"id": call.to_bytes(16, "big"), "view": "g", "version": 1, **changes}
    return RequestHead(call=call, size=fields.pop("size", len(message)), **fields), message


MESSAGES = [message_of(1), message_of(2, 3), message_of(4)]
GOOD = [request(10 + i, message) for i, message in enumerate(MESSAGES)]
VALUE, HEADERS = Framing(SCHEMA).encode(5, "hof.reply.00", 77, GOOD)
SCHEMA_END = len(VALUE) - len(END) - sum(map(len, MESSAGES))


def changed(name, value):
    """The good headers with one of them replaced; None takes it out."""
    rest = [(n, v) for n, v in HEADERS if n != name]
    return rest if value is None else [*rest, (name, value)]


def heads_with(**changes):
    heads = [request(10 + i, message, **changes)[0] for i, message in enumerate(MESSAGES)]
    return changed("hof-requests", pack(heads))


def joined(found):
    return [join_message(head, body) for _, head, body in found.requests]


cards = st.lists(st.integers(0, 50), min_size=1, max_size=4)
requests = st.builds(
    lambda c, call, view, version, deadline_us, store, wants: request(
        call, message_of(*c), view=view, version=version, deadline_us=deadline_us, store=store,
        wants_answer=wants,
    ),
    cards, st.integers(0, 2**63 - 1), st.text(max_size=70), st.integers(1, 10**9),
    st.integers(0, 2**62), st.booleans(), st.booleans(),
)  # fmt: skip
numbers = st.integers(0, 2**63 - 1)


@given(st.lists(requests, min_size=1, max_size=6), numbers, numbers, st.text(max_size=20))
def test_every_request_comes_back_byte_for_byte(given_requests, arrival_us, epoch, reply):
    """Heads, batch headers and bodies, in their order, and what the record says of all of them."""
    framing = Framing(SCHEMA)
    found = framing.decode(*framing.encode(arrival_us, reply, epoch, given_requests))

    assert (found.arrival_us, found.reply, found.epoch) == (arrival_us, reply, epoch)
    assert [head for head, _, _ in found.requests] == [head for head, _ in given_requests]
    assert joined(found) == [message for _, message in given_requests]


@given(st.lists(cards, min_size=1, max_size=6))
def test_an_arrow_reader_reads_the_value(batches):
    """Whoever knows nothing of us still finds the raw events: one stream, one batch a request."""
    given_requests = [request(i, message_of(*batch)) for i, batch in enumerate(batches)]
    value, _ = Framing(SCHEMA).encode(1, "r", 1, given_requests)
    reader = pa.ipc.open_stream(value)

    assert reader.schema == SCHEMA
    assert [batch.column("card").to_pylist() for batch in reader] == batches


def test_a_header_and_a_body_of_any_length_come_back():
    """A body need not end on 8 bytes; the next message begins where its size says all the same."""
    odd = join_message(b"h" * 13, b"b" * 3)
    framing = Framing(SCHEMA)
    found = framing.decode(*framing.encode(1, "r", 1, [request(1, odd), GOOD[0]]))

    assert found.requests[0][1:] == (b"h" * 13 + bytes(3), b"b" * 3)
    assert joined(found) == [odd, MESSAGES[0]]


def test_a_nudge_is_no_record_of_requests():
    """It lets Spark go on and asks for nothing."""
    assert Framing(SCHEMA).decode(None, NUDGE) is None
    assert Framing(SCHEMA).decode(b"", NUDGE) is None


def test_headers_of_others_are_let_through():
    """A tracing library adds its own, null ones too."""
    more = [*HEADERS, ("traceparent", b"00-aa-bb-01"), ("traceparent", b"2"), ("x", None)]
    assert joined(Framing(SCHEMA).decode(VALUE, more)) == MESSAGES


@pytest.mark.parametrize("metadata", [None, {"writer": "java"}])
def test_the_schema_of_another_writer_is_the_same_schema(metadata):
    """Metadata and nullability are nobody's business: names, order and types are compared."""
    fields = [pa.field("card", pa.int64(), nullable=False), *list(SCHEMA)[1:]]
    theirs = join_message(encode_schema(pa.schema(fields, metadata=metadata)), b"")
    framing = Framing(SCHEMA)
    for _ in range(2):
        assert joined(framing.decode(theirs + VALUE[SCHEMA_END:], HEADERS)) == MESSAGES


def test_schemas_of_other_writers_are_not_remembered_without_end():
    """A writer that says something new each time costs time, never memory."""
    framing = Framing(SCHEMA)
    for number in range(1_100):
        schema = SCHEMA.with_metadata({"n": str(number)})
        framing.decode(join_message(encode_schema(schema), b"") + VALUE[SCHEMA_END:], HEADERS)

    assert len(framing._known) <= 1_024


# --- hostile records ------------------------------------------------------------------------------


def arrow_file():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(batch_of(1))
    return sink.getvalue().to_pybytes()


def other_schema(schema):
    return join_message(encode_schema(schema), b"") + VALUE[SCHEMA_END:]


def resized(*sizes):
    heads = [request(i, MESSAGES[0], size=size)[0] for i, size in enumerate(sizes)]
    return changed("hof-requests", pack(heads))


def raw_head(**changes):
    """One request as plain values, which a `RequestHead` would not hold."""
    fields = {"call": 1, "id": bytes(16), "size": len(MESSAGES[0]), "view": "g", "version": 1}
    return changed("hof-requests", pack([list({**fields, **changes}.values())]))


WIDE = pa.schema([(f"c{i}", pa.int64()) for i in range(5_000)])
DICTIONARY = SCHEMA.set(2, pa.field("name", pa.dictionary(pa.int32(), pa.string())))
HOSTILE = {
    "no value": (None, HEADERS),
    "an empty value": (b"", HEADERS),
    "no headers": (VALUE, []),
    "no headers and no value": (None, []),
    "only a version": (VALUE, HEADERS[:1]),
    "a header twice": (VALUE, [*HEADERS, ("hof-epoch", b"77")]),
    "a null header": (VALUE, [*changed("hof-reply", None), ("hof-reply", None)]),
    "a null version": (VALUE, [*changed("hof-v", None), ("hof-v", None)]),
    "too many headers": (VALUE, HEADERS + [(f"x{i}", b"") for i in range(60)]),
    "a name of 1 MB twice": (VALUE, [*HEADERS, *[("hof-" + "x" * 2**20, b"")] * 2]),
    "a reply topic that is not UTF-8": (VALUE, changed("hof-reply", b"\xff\xfe")),
    "another version": (VALUE, changed("hof-v", b"2")),
    "an empty version": (VALUE, changed("hof-v", b"")),
    "a version of 1 MB": (VALUE, changed("hof-v", b"1" * 2**20)),
    "an unknown kind": (VALUE, [*HEADERS, ("hof-kind", b"x" * 2**20)]),
    "a nudge with a value": (VALUE, [*HEADERS, ("hof-kind", b"nudge")]),
    "a negative epoch": (VALUE, changed("hof-epoch", b"-1")),
    "an epoch of 2^63": (VALUE, changed("hof-epoch", b"%d" % 2**63)),
    "an epoch of a million digits": (VALUE, changed("hof-epoch", b"1" * 10**6)),
    "an epoch in other digits": (VALUE, changed("hof-epoch", "٣".encode())),
    "an epoch with a space": (VALUE, changed("hof-epoch", b" 7")),
    "an empty arrival": (VALUE, changed("hof-arrival-us", b"")),
    "an arrival of 1e18": (VALUE, changed("hof-arrival-us", b"1e18")),
    "no requests": (VALUE, changed("hof-requests", None)),
    "an empty array of requests": (VALUE, changed("hof-requests", pack([]))),
    "requests that are a map": (VALUE, changed("hof-requests", pack({"call": 1}))),
    "requests that are JSON": (VALUE, changed("hof-requests", b'[{"call":1}]')),
    "requests of 1 MB": (VALUE, changed("hof-requests", b"\xc4" * 2**20)),
    "an array of 2^32 requests": (VALUE, changed("hof-requests", b"\xdd\xff\xff\xff\xff")),
    "arrays in arrays": (VALUE, changed("hof-requests", b"\x91" * 100_000)),
    "maps in maps": (VALUE, changed("hof-requests", b"\x91\x81\x01" * 50_000)),
    "an id of 15 bytes": (VALUE, heads_with(id=bytes(15))),
    "an id of 1 MB": (VALUE, heads_with(id=bytes(2**20))),
    "an id that is text": (VALUE, raw_head(id="x" * 16)),
    "a view that is bytes": (VALUE, raw_head(view=b"g")),
    "a view that is not UTF-8": (
        VALUE,
        changed("hof-requests", pack([GOOD[0][0]]).replace(b"\xa1g", b"\xa1\xff")),
    ),
    "a version of 2^64 - 1 as float": (VALUE, raw_head(version=1.8e19)),
    "a field too many": (VALUE, raw_head(d=0, s=True, w=True, more=1)),
    "a size of zero": (VALUE, resized(0)),
    "a negative size": (VALUE, resized(-8)),
    "a size of 2^63": (VALUE, resized(2**63)),
    "a size of 2^64 - 1": (VALUE, raw_head(size=2**64 - 1)),
    "sizes that are all of the value": (VALUE, resized(len(VALUE) - len(END))),
    "sizes that are too short": (VALUE, resized(8)),
    "one request too few": (VALUE, resized(*map(len, MESSAGES[1:]))),
    "one request too many": (VALUE, resized(*map(len, MESSAGES), 8)),
    "a file instead of a stream": (arrow_file(), changed("hof-requests", pack([GOOD[0][0]]))),
    "trailing bytes": (VALUE + b"\0" * 8, HEADERS),
    "no end mark": (VALUE[: -len(END)], HEADERS),
    "another schema": (other_schema(OTHER), HEADERS),
    "columns in another order": (other_schema(pa.schema(list(SCHEMA)[::-1])), HEADERS),
    "a dictionary": (other_schema(DICTIONARY), HEADERS),
    "no column": (other_schema(pa.schema([])), HEADERS),
    "5,000 columns": (other_schema(WIDE), HEADERS),
    "no schema": (VALUE[SCHEMA_END:], HEADERS),
    "a batch for a schema": (MESSAGES[0] + VALUE[SCHEMA_END:], HEADERS),
    "JSON of a producer of old": (b'{"card": 1}' * 50, HEADERS),
    "zeros": (bytes(len(VALUE)), HEADERS),
}


SHORT = ("sizes that are too short", "one request too few")


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {*SHORT}))
def test_a_hostile_record_is_a_bad_record(name):
    """Each of them is refused with the one code, in few words, and costs next to nothing."""
    value, headers = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(BadRecord, match="HOF-220") as raised:
            Framing(SCHEMA).decode(value, headers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(raised.value.message.encode()) < 8_192
    assert peak < 8 << 20


@pytest.mark.parametrize("name", SHORT)
def test_a_record_with_more_than_its_requests_is_a_bad_record(name):
    """Else batches that nobody counts stand in the raw events for every other reader."""
    with pytest.raises(BadRecord, match="HOF-220"):
        Framing(SCHEMA).decode(*HOSTILE[name])


def test_a_second_schema_does_not_move_the_requests():
    """Where a request begins is its size's word, whatever stands before the first of them."""
    framing = Framing(SCHEMA)
    try:
        found = framing.decode(VALUE[:SCHEMA_END] + VALUE, HEADERS)
    except BadRecord:
        return
    assert joined(found) == MESSAGES


def test_names_of_a_hostile_schema_do_not_make_a_longer_error_than_a_dead_letter_holds():
    """An error goes into a header of the dead letter, whose topic takes 64 KiB above a record."""
    names = ["\U000e0001" * 7_000 + str(i) for i in range(2)]
    hostile = pa.schema([(name, pa.int64()) for name in names])
    with pytest.raises(BadRecord) as raised:
        Framing(SCHEMA).decode(other_schema(hostile), HEADERS)

    assert len(raised.value.message.encode()) < 32 * 1_024


headers_of_any_kind = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([name for name, _ in HEADERS] + ["hof-kind"]), st.text()),
        st.one_of(st.none(), st.binary(max_size=200), st.sampled_from([v for _, v in HEADERS])),
    ),
    max_size=9,
)


@given(st.one_of(st.none(), st.binary(max_size=600), st.just(VALUE)), headers_of_any_kind)
def test_random_records_are_bad_records(value, headers):
    """Never another exception; what is taken has the messages that its own sizes say."""
    try:
        found = Framing(SCHEMA).decode(value, headers)
    except BadRecord:
        return
    assert found is None or b"".join(joined(found)) == VALUE[SCHEMA_END : -len(END)]


@given(st.integers(0, len(VALUE) - 1), st.integers(1, 255))
def test_one_changed_byte_of_a_value_touches_only_the_request_that_it_is_of(at, flip):
    """Sizes stand in a header: whatever the bytes say, the neighbours' borders do not move."""
    value = bytearray(VALUE)
    value[at] ^= flip
    try:
        found = Framing(SCHEMA).decode(bytes(value), HEADERS)
    except BadRecord:
        assert at < SCHEMA_END or at >= len(VALUE) - len(END)
        return
    assert [head for head, _, _ in found.requests] == [head for head, _ in GOOD]
    start = SCHEMA_END
    for (_, head, body), message in zip(found.requests, MESSAGES, strict=True):
        end = start + len(message)
        if not start <= at < end:
            assert join_message(head, body) == message
        else:
            assert len(head) + len(body) <= len(message)
        start = end


def test_one_changed_byte_of_a_header_is_refused_or_leaves_the_bytes_alone():
    """What is said of requests may change so; which bytes each of them has, may not."""
    framing, wrong = Framing(SCHEMA), []
    for number, (name, value) in enumerate(HEADERS):
        for at in range(len(value)):
            for bit in range(8):
                hurt = bytearray(value)
                hurt[at] ^= 1 << bit
                headers = [*HEADERS[:number], (name, bytes(hurt)), *HEADERS[number + 1 :]]
                try:
                    found = framing.decode(VALUE, headers)
                except BadRecord:
                    continue
                if joined(found) != MESSAGES:
                    wrong.append((name, at, bit))

    assert wrong == []


# --- answers --------------------------------------------------------------------------------------

bytes_of = st.binary(min_size=8, max_size=64).map(lambda data: data[: len(data) // 8 * 8])
answers = st.lists(st.tuples(numbers, st.binary(max_size=99), bytes_of, st.binary(max_size=50)))


@given(numbers, answers.filter(bool))
def test_every_answer_comes_back_byte_for_byte(epoch, given_answers):
    """Call, metadata, head and body, in their order."""
    found = decode_answers(*encode_answers(epoch, given_answers))

    assert found.epoch == epoch
    assert [(h.call, h.meta, head, body) for h, head, body in found.answers] == given_answers


ANSWERS = [(1, b"m1", b"h" * 16, b"b" * 5), (2, b"m2", b"i" * 8, b"")]
REPLY, REPLY_HEADERS = encode_answers(7, ANSWERS)


def reply_with(name, value):
    return [(n, value if n == name else v) for n, v in REPLY_HEADERS]


HOSTILE_ANSWERS = {
    "no value": (None, REPLY_HEADERS),
    "an empty value": (b"", REPLY_HEADERS),
    "no headers": (REPLY, []),
    "a nudge": (None, NUDGE),
    "requests": (VALUE, HEADERS),
    "trailing bytes": (REPLY + b"\0", REPLY_HEADERS),
    "a byte too few": (REPLY[:-1], REPLY_HEADERS),
    "no epoch": (REPLY, [h for h in REPLY_HEADERS if h[0] != "hof-epoch"]),
    "a null epoch": (REPLY, reply_with("hof-epoch", None)),
    "an epoch that is text": (REPLY, reply_with("hof-epoch", b"x")),
    "no answers": (b"", reply_with("hof-answers", pack([]))),
    "an array of 2^32 answers": (REPLY, reply_with("hof-answers", b"\xdd\xff\xff\xff\xff")),
    "arrays in arrays": (REPLY, reply_with("hof-answers", b"\x91" * 100_000)),
    "a negative size": (REPLY, reply_with("hof-answers", pack([[1, b"", -8]]))),
    "a size of 2^64 - 1": (REPLY, reply_with("hof-answers", pack([[1, b"", 2**64 - 1]]))),
    "another version": (REPLY, reply_with("hof-v", b"3")),
}


@pytest.mark.parametrize("name", HOSTILE_ANSWERS)
def test_a_hostile_record_of_answers_is_a_bad_record(name):
    """The reply topic is no safer a place than the others."""
    with pytest.raises(BadRecord, match="HOF-220"):
        decode_answers(*HOSTILE_ANSWERS[name])


@given(st.one_of(st.none(), st.binary(max_size=80), st.just(REPLY)), st.data())
def test_random_records_of_answers_are_bad_records(value, data):
    """Never another exception."""
    names = st.sampled_from(["hof-v", "hof-epoch", "hof-answers", "x"])
    known = st.sampled_from([v for _, v in REPLY_HEADERS])
    values = st.one_of(st.none(), st.binary(max_size=60), known)
    headers = data.draw(st.lists(st.tuples(names, values), max_size=5, unique_by=lambda h: h[0]))
    try:
        found = decode_answers(value, headers)
    except BadRecord:
        return
    assert sum(head.size for head, _, _ in found.answers) == len(value or b"")


@given(st.integers(0, len(REPLY) - 1), st.integers(1, 255))
def test_one_changed_byte_of_an_answer_touches_no_other_answer(at, flip):
    """As with requests: sizes stand in a header."""
    value = bytearray(REPLY)
    value[at] ^= flip
    found = decode_answers(bytes(value), REPLY_HEADERS)
    border = len(join_message(*ANSWERS[0][2:]))
    whole = [join_message(head, body) for _, head, body in found.answers]

    assert [(h.call, h.meta) for h, _, _ in found.answers] == [(c, m) for c, m, _, _ in ANSWERS]
    if at < border:
        assert whole[1] == REPLY[border:]
    else:
        assert whole[0] == REPLY[:border]


def test_an_answer_head_of_a_newer_server_may_say_more():
    """Fields are added at the end: who does not know them reads what it knows."""
    more = pack([[1, b"m", len(REPLY), "new"]])
    (found,) = decode_answers(REPLY, reply_with("hof-answers", more)).answers
    assert found[0] == AnswerHead(1, b"m", len(REPLY))
