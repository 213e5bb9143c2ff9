"""A Flight server that speaks hofflight's metadata and misbehaves when a row says so.

Run as a program it prints its port. Rows have `key` and `say`; what the first row's `say` holds
happens: "" echoes, "slow" answers after 300 ms, "hold" answers after the stream's next request,
"HOF-nnn" answers with that error, "HOF-nnn once" with the id's first request only, "drop" and
"drop once" end the stream with an error that names no code, "end once" ends it without error,
"no id" answers with an error and no id. An answer's `g.seen` says how often its id has come, its
timing `key_hash` which one came (-1: none).
"""

import base64
import json
import sys
import time
from collections import Counter

import pyarrow as pa
from pyarrow import flight

from hofflight.wire import envelope

INPUT = pa.schema([("key", pa.int64()), ("say", pa.string())])
NEW_INPUT = pa.schema([("key", pa.int64()), ("say", pa.string()), ("added", pa.int64())])
OUTPUT = pa.schema([("g.say", pa.string()), ("g.seen", pa.int64())])


class FakeServer(flight.FlightServerBase):
    """Views: `g`; `moving`, whose columns change after the first look; `refused`, at first.

    `spread` keeps rows of a key in one of 8 partitions, `alone` in one of 1.
    """

    def __init__(self):
        super().__init__("grpc://127.0.0.1:0")
        self.seen = Counter()
        self.looks = Counter()
        self.streams = Counter()
        self.rows_put = 0
        self.hashes_put = []

    def get_flight_info(self, context, descriptor):
        view = descriptor.path[0].decode()
        self.looks[view] += 1
        if view == "unknown":
            raise flight.FlightServerError("HOF-201: no view 'unknown' is served Hint: 'g' is")
        if view == "broken":
            raise RuntimeError("a bug at /secret/path.py")
        return self.info(view)

    def info(self, view):
        is_new = view == "moving" and self.looks[view] > 1
        message = (NEW_INPUT if is_new else INPUT).serialize()
        said = {
            "view": view, "version": 3, "group": "g", "group_version": 2, "code_hash": "c0de",
            "input_schema": base64.b64encode(message).decode(),
            "limits": {"rows": 100_000}, "versions": [1, 3],
        }  # fmt: skip
        if partitions := {"spread": 8, "alone": 1}.get(view):
            said |= {"partition_key": ["key"], "partitions": partitions}
        return flight.FlightInfo(
            OUTPUT, flight.FlightDescriptor.for_path(view), [], -1, -1, False, json.dumps(said)
        )

    def list_flights(self, context, criteria):
        yield self.info("g")

    def do_action(self, context, action):
        if action.type == "health":
            yield json.dumps({"status": "SERVING"}).encode()
        else:
            counts = {"streams": self.streams, "looks": self.looks, "rows_put": self.rows_put}
            counts["hashes_put"] = self.hashes_put
            yield json.dumps({"asked": action.body.to_pybytes().decode(), **counts}).encode()

    def do_exchange(self, context, descriptor, reader, writer):
        view = descriptor.path[0].decode()
        self.streams["/".join(part.decode() for part in descriptor.path)] += 1
        if view == "refused" and self.streams[view] == 1:
            raise flight.FlightUnavailableError("HOF-303: stopping Hint: try the other server")
        if view == "moving" and reader.schema != NEW_INPUT:
            raise pa.ArrowInvalid("HOF-202: column 'added' is missing")
        writer.begin(OUTPUT)
        held = None
        for chunk in reader:
            meta = envelope.read_request(chunk.app_metadata.to_pybytes())
            self.seen[meta.id] += 1
            answer = self.answer(chunk.data, meta)
            if answer is None:
                return
            if chunk.data.num_rows and chunk.data["say"][0].as_py() == "hold":
                held = answer
                continue
            writer.write_with_metadata(*answer)
            if held:
                writer.write_with_metadata(*held)
                held = None

    def answer(self, batch, meta):
        say = batch["say"][0].as_py() if batch.num_rows else "HOF-207"
        seen = self.seen[meta.id]
        is_due = seen == 1 or "once" not in say
        if say == "slow":
            time.sleep(0.3)
        elif say.startswith("drop") and is_due:
            raise flight.FlightInternalError("broken pipe at /secret/path.py")
        elif say.startswith("end") and is_due:
            return None
        elif (say.startswith("HOF") and is_due) or say == "no id":
            said = envelope.AnswerMeta(
                code=say.split()[0] if say != "no id" else "HOF-204",
                id=meta.id if say != "no id" else None,
                error="as you asked", hint="ask for less", retry_after_ms=7,
            )  # fmt: skip
            return pa.RecordBatch.from_pylist([], schema=OUTPUT), metadata(said)
        said = envelope.AnswerMeta(
            envelope.OK, id=meta.id, view="g", version=3, code_hash="c0de",
            late=[False, True] if batch.num_rows == 2 else False,
            status={"g.seen": "OVERFLOW"}, timings_us={
                "engine": meta.deadline_ms or 0,
                "key_hash": -1 if meta.key_hash is None else meta.key_hash,
            },
        )  # fmt: skip
        counts = pa.array([seen] * batch.num_rows, pa.int64())
        return pa.record_batch([batch["say"], counts], schema=OUTPUT), metadata(said)

    def do_put(self, context, descriptor, reader, writer):
        for chunk in reader:
            meta = envelope.read_request(chunk.app_metadata.to_pybytes())
            self.seen[meta.id] += 1
            _, said = self.answer(chunk.data, meta)
            self.hashes_put.append(meta.key_hash)
            self.rows_put += chunk.data.num_rows * (self.seen[meta.id] == 1)
            writer.write(said)


def metadata(said):
    return pa.py_buffer(envelope.write(said))


if __name__ == "__main__":
    pa.array([0])  # pyarrow's first value loads pandas: seconds on a busy machine
    server = FakeServer()
    print(server.port, flush=True)
    sys.exit(server.serve())
