"""Bytes that left the house once must be readable for ever: by clients, by logs on disk.

Each `.hex` file holds bytes as some release wrote them. They are never written again: when a format
changes, a new file is added, and the old one is still read or refused by name.
"""

import io
from pathlib import Path

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.eventlog.frames import MAGIC, decode_entry, read_frames
from hofflight.eventlog.local import LogReader
from hofflight.wire.columns import to_python
from hofflight.wire.envelope import AnswerMeta, RequestMeta, read_answer, read_request, write
from hofflight.wire.ipc import BatchReader, RowWriter

HERE = Path(__file__).parent
INPUT = pa.schema([("card", pa.int64()), ("ts", hof.TIMESTAMP), ("x", pa.float64()),
                   ("s", pa.string())])  # fmt: skip
ROW = [7, 1_700_000_000_123_456, 9.5, "héllo"]
ID = bytes(range(16))
REQUEST = RequestMeta(id=ID, deadline_ms=250, store=False, ordered=True)
ANSWER = AnswerMeta(
    "OK", 1, ID, "fraud", 2, "0123456789abcdef", {"g.n": ["OK", "LATE"]}, {}, [False, True],
    {"engine": 41},
)  # fmt: skip
FAILURE = AnswerMeta("HOF-301", 1, ID, error="too much", hint="wait", retry_after_ms=50)


def golden(name):
    """The bytes of a file of hex digits."""
    return bytes.fromhex((HERE / f"{name}.hex").read_text())


@pytest.mark.parametrize(
    ("name", "read", "expected"),
    [
        ("request_meta_v1", read_request, REQUEST),
        ("answer_meta_v1", read_answer, ANSWER),
        ("failure_meta_v1", read_answer, FAILURE),
    ],
)
def test_metadata_of_version_1_is_read_and_written_alike(name, read, expected):
    """A client of the first release understands this one, and the other way round."""
    assert read(golden(name)) == expected
    assert write(expected) == golden(name)


def test_a_request_of_pyarrow_26_is_read():
    """Header and body as a client sent them; a new pyarrow may write others, these still count."""
    head, body = golden("request_head_v1"), golden("request_body_v1")
    reader = BatchReader(INPUT)

    assert reader.layout(head, body).read_row(body) == ROW
    assert [to_python(c)[0] for c in reader.read_batch(head, body).columns] == ROW


def test_the_row_writer_writes_the_same_body_as_ever():
    """Repeated answers are compared with recorded ones: bodies must not change by themselves."""
    head, body = RowWriter(INPUT).write(ROW)

    assert body == golden("answer_body_v1")
    assert BatchReader(INPUT).layout(head, body).read_row(body) == ROW


def test_a_log_segment_of_format_1_is_read(tmp_path):
    """One answered request with a late and an overflowing row, then a void mark."""
    data = golden("segment_v1")
    (tmp_path / f"{1:08d}-{1:019d}.log").write_bytes(data)
    answered, void = [entry for _, entry in LogReader(tmp_path).read()]

    meta = answered.meta
    assert (meta.number, meta.arrival_us, meta.id, meta.rows) == (1, 5, ID, 3)
    assert (meta.view, meta.view_version, meta.group_version) == ("fraud", 2, 1)
    assert (meta.code, meta.late, meta.overflow) == ("OK", [1], {"total": [2]})
    assert (answered.head, answered.body) == (golden("request_head_v1"), golden("request_body_v1"))
    assert answered.answer_body == golden("answer_body_v1")
    assert (void.meta.number, void.meta.code, void.meta.error) == (2, "HOF-205", "null key")
    assert (void.answer_head, void.answer_body) == (b"", b"")
    file = io.BytesIO(data)
    assert file.read(len(MAGIC)) == MAGIC
    heads, entries = {}, []
    for frame in read_frames(file):
        if frame.is_entry:
            entries.append(decode_entry(frame.payload, heads))
        else:
            heads[frame.offset] = frame.payload[1:]
    assert entries == [answered, void]


def test_pyarrow_still_reads_what_we_recorded():
    """The recorded answer is Arrow, readable without us."""
    batch = BatchReader(INPUT).read_batch(golden("answer_head_v1"), golden("answer_body_v1"))

    assert [to_python(c)[0] for c in batch.columns] == ROW
