"""`hof dlq` as its users run it: poison in, letters out, and back again."""

import asyncio
import json

import pytest

import hofflight as hof
from hofflight.eventlog.kafka import Cluster, partition_of_topic
from hofflight.settings import load_settings
from tests.integration.kafka_place import KafkaPlace, ended, event, send_odd_name

ESCAPES = "\x1b[2J\x1b[31m"
POISON = [
    (b'{"card": 7}\n' + bytes(range(256)) * 2, [("hof-v", b"2"), ("trace", b"\xff\xfe")]),
    (None, [("a", None), ("hof-error", ESCAPES.encode()), ("hof-topic", b"elsewhere")]),
    (b"", []),
]


class Letters(KafkaPlace):
    """A place whose topics are written to and read as others may."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.topic = f"{self.prefix}.in.card_tx.1"
        self.dlq = f"{self.prefix}.dlq"
        bootstrap = self.environment["HOF_KAFKA__BOOTSTRAP"]
        self.cluster = Cluster(load_settings(kafka={"bootstrap": bootstrap}).kafka)

    def send(self, topic, *records):
        async def send():
            async with self.cluster.producer() as producer:
                for value, headers in records:
                    await producer.send_and_wait(
                        topic, value, key=b"", partition=0, headers=headers
                    )

        asyncio.run(send())

    def read(self, topic, count):
        """The first records of partition 0, as soon as there are so many."""

        async def read():
            async with self.cluster.consumer() as consumer:
                key = partition_of_topic(topic, 0)
                consumer.assign([key])
                consumer.seek(key, 0)
                found = []
                while len(found) < count:
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        found += records
                return found

        return asyncio.run(asyncio.wait_for(read(), 30))

    def letter_of_offset(self, offset):
        """The value of the first letter that says this offset."""
        for count in range(1, 20):
            record = self.read(self.dlq, count)[count - 1]
            if dict(record.headers)["hof-offset"] == b"%d" % offset:
                return record.value
        return None

    def dlq_json(self, *arguments, code=0):
        done = self("dlq", *arguments, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def place(tmp_path, broker):
    return letters_in(tmp_path, broker)


def letters_in(folder, broker):
    made = Letters(folder, broker.bootstrap, partitions=1)
    made.register()
    return made


@pytest.fixture
def poisoned(place):
    return poison(place)


@pytest.fixture(scope="module")
def shown(tmp_path_factory, broker):
    """The same for those who only look."""
    return poison(letters_in(tmp_path_factory.mktemp("shown"), broker))


def poison(place):
    """A place whose worker buried all poison, and ended."""
    with place.working() as worker:
        place.send(place.topic, *POISON)
        place.read(place.dlq, len(POISON))
        assert ended(worker) == 0
    return place


def refused(done, code, *words):
    assert done.returncode in (1, 2), done.stdout
    assert done.stderr.splitlines()[-1].startswith(code), done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert all(word in done.stderr for word in words), done.stderr


def test_letters_are_listed_newest_last(shown):
    found = shown.dlq_json("ls")
    assert found["topic"] == shown.dlq
    letters = found["letters"]
    assert [letter["number"] for letter in letters] == [0, 1, 2]
    assert [letter["bytes"] for letter in letters] == [524, None, 0]
    assert [letter["offset"] for letter in letters] == [0, 1, 2]
    assert {(e["topic"], e["partition"], e["code"]) for e in letters} == {
        (shown.topic, 0, "HOF-220")
    }
    assert [e["number"] for e in shown.dlq_json("ls", "--limit", 2)["letters"]] == [1, 2]
    assert len(shown.dlq_json("ls", "--group", "card_tx")["letters"]) == 3
    assert shown.dlq_json("ls", "--group", "card")["letters"] == []
    assert len(shown.dlq_json("ls", "--since", letters[0]["time"])["letters"]) == 3
    assert shown.dlq_json("ls", "--since", "2100-01-01")["letters"] == []

    text = shown("dlq", "ls", "--since", "2020-01-01")
    assert text.returncode == 0, text.stderr
    assert f"{shown.topic}/0/1" in text.stdout
    assert "reading: 3 of 3" in text.stderr


def test_a_letter_is_shown_whole_and_safely(shown):
    first = shown.dlq_json("show", 0)
    assert first["headers"] == [
        {"name": "hof-v", "text": "2"}, {"name": "trace", "hex": "fffe"},
    ]  # fmt: skip
    assert first["value_begins"] == POISON[0][0][:256].hex()
    assert first["value_text"].startswith('{"card": 7}.')
    assert first["error"].startswith("the header hof-v is b'2'")

    null = shown.dlq_json("show", 1)
    assert (null["bytes"], null["value_begins"]) == (None, None)
    assert [h["name"] for h in null["headers"]] == ["a", "hof-error", "hof-topic"]
    assert (null["topic"], null["sent"][:2]) == (shown.topic, "20")

    for number in range(3):
        text = shown("dlq", "show", number)
        assert text.returncode == 0, text.stderr
        assert f"{shown.topic}/0/{number}" in text.stdout
        assert "\x1b" not in text.stdout + text.stderr


def test_the_bytes_go_into_a_new_file_only(shown):
    file = shown.folder / "value.bin"
    done = shown("dlq", "show", 0, "--value", file)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == POISON[0][0]
    refused(shown("dlq", "show", 2, "--value", file), "HOF-601", "there already")
    refused(shown("dlq", "show", 1, "--value", "null.bin"), "HOF-601", "no value")
    refused(shown("dlq", "show", 0, "--value", "no/where"), "HOF-601", "cannot be written")
    assert file.read_bytes() == POISON[0][0]
    assert not (shown.folder / "null.bin").exists()


def test_what_is_put_back_is_what_was_sent_and_poison_comes_again(poisoned):
    dry = poisoned.dlq_json("replay", "--all", "--dry-run")
    assert [e["refused"] for e in dry["letters"]] == [""] * 3
    done = poisoned.dlq_json("replay", 1, 0)
    assert [(e["number"], e["topic"], e["partition"]) for e in done["letters"]] == [
        (0, poisoned.topic, 0), (1, poisoned.topic, 0),
    ]  # fmt: skip

    again = poisoned.read(poisoned.topic, 5)
    assert len(again) == 5  # the dry run sent nothing
    assert [(r.value, list(r.headers)) for r in again[3:]] == POISON[:2]
    with poisoned.working() as worker:
        last = poisoned.letter_of_offset(4)
        assert ended(worker) == 0
    assert last == POISON[1][0]
    assert poisoned.dlq_json("replay", "--code", "HOF-221")["letters"] == []

    count = len(poisoned.dlq_json("ls")["letters"])
    text = poisoned("dlq", "replay", "--code", "HOF-220")
    assert text.returncode == 0, text.stderr
    assert f"{count} of {count} put back" in text.stderr


def test_a_request_that_is_put_back_counts_once(place):
    """It is the same request, by its id, however often it comes."""
    with place.working(), place.serving() as (_, address), hof.connect(address) as client:
        client.vector("card_tx", event(7, 0))
        place.send(place.dlq, buried(place, place.read(place.topic, 1)[0]))
        for _ in range(2):
            assert place.dlq_json("replay", 0)["letters"][0]["refused"] == ""
        found = client.vector("card_tx", event(7, 1)).to_dict()

    assert len(place.read(place.topic, 4)) == 4
    assert found["card_tx.n_10m"] == 2
    assert place.verified(0)["rows"] == 2


def buried(place, record, **said):
    about = {
        "hof-error": "planted", "hof-code": "HOF-220", "hof-topic": place.topic,
        "hof-partition": "0", "hof-offset": "0", "hof-timestamp-ms": "0", **said,
    }  # fmt: skip
    value, headers = record if isinstance(record, tuple) else (record.value, record.headers)
    return value, [*headers, *((name, text.encode()) for name, text in about.items())]


def test_strangers_letters_are_shown_and_go_nowhere(place, tmp_path_factory, broker):
    """Nobody who can write to the topic chooses where a record goes."""
    other = Letters(tmp_path_factory.mktemp("other"), broker.bootstrap, partitions=1)
    other.register()
    place.send(
        place.dlq,
        (ESCAPES.encode(), [(ESCAPES, ESCAPES.encode())]),
        (None, []),
        buried(place, (b"x", []), **{"hof-topic": place.dlq}),
        buried(place, (b"x", []), **{"hof-topic": other.topic}),
        buried(place, (b"x", []), **{"hof-topic": f"{place.prefix}.in.card_tx.2"}),
        buried(place, (b"x", []), **{"hof-partition": "1"}),
        buried(place, (bytes(900_000), [])),
        buried(place, (b"x", []), **{"hof-error": ESCAPES}),
    )
    done = place.dlq_json("replay", "--all", code=1)
    assert [bool(e["refused"]) for e in done["letters"]] == [True] * 7 + [False]
    assert [e["partition"] for e in done["letters"]] == [None] * 7 + [0]
    assert [r.value for r in place.read(place.topic, 1)] == [b"x"]
    assert len(place.read(place.dlq, 8)) == 8

    listed = place("dlq", "ls")
    assert listed.returncode == 0
    assert "no worker of ours buried it" in listed.stdout
    shown = [place("dlq", "show", number) for number in (0, 1, 7)]
    said = place("dlq", "replay", 0, 2, "--dry-run")
    assert said.returncode == 1
    assert "no registered group has this input topic" in said.stdout
    for done in (listed, said, *shown):
        assert "\x1b" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_record_that_no_client_of_ours_can_read_does_not_hide_the_others(place):
    """The name of a header is bytes to Kafka, and text to aiokafka."""
    place.send(place.dlq, buried(place, (b"first", [])))
    asyncio.run(send_odd_name(place.environment["HOF_KAFKA__BOOTSTRAP"], place.dlq))
    place.send(place.dlq, buried(place, (b"last", [])))

    letters = place.dlq_json("ls")["letters"]
    assert [e["bytes"] for e in letters] == [5, None, 4]
    assert "cannot be read" in letters[1]["error"]
    assert place.dlq_json("show", 1)["code"] is None
    done = place.dlq_json("replay", "--all", code=1)
    assert [bool(e["refused"]) for e in done["letters"]] == [False, True, False]
    assert [r.value for r in place.read(place.topic, 2)] == [b"first", b"last"]


def test_what_is_asked_wrongly_is_said(place):
    assert place("dlq", "ls").returncode == 0
    assert place.dlq_json("ls")["letters"] == []
    assert "no letters" in place("dlq", "ls").stderr
    refused(place("dlq", "show", 0), "HOF-601", "it is empty")
    refused(place("dlq", "replay", 3), "HOF-601", "no letter 3")
    refused(place("dlq", "replay"), "HOF-601", "--all")
    refused(place("dlq", "replay", 1, "--all"), "HOF-601", "--all")
    refused(place("dlq", "ls", "--since", "yesterday"), "HOF-215", "yesterday")
    assert place.dlq_json("replay", "--all")["letters"] == []
    refused(place("dlq", "ls", HOF_KAFKA__PREFIX="nobody"), "HOF-513", "nobody.dlq is missing")
    refused(place("dlq", "ls", HOF_KAFKA__BOOTSTRAP=""), "HOF-601", "--kafka")
    refused(place("dlq", "replay", "--all", HOF_REGISTRY__URL=""), "HOF-601", "--registry")


@pytest.mark.parametrize("command", [["ls"], ["show", "0"], ["replay", "--all"]])
def test_no_broker_is_an_error_of_a_line(place, command):
    refused(place("dlq", *command, "--kafka", "127.0.0.1:9"), "HOF-512", "127.0.0.1:9")
