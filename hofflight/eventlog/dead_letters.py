"""Dead letters: records that are none, as a worker buried them, read and put back.

A letter is the record as it came, its headers first; a worker adds six of its own behind them
(`BURIAL`). They are read by their place, so that no header of a record's sender passes for one.
Others may write to the topic too: what a letter says is shown and never believed.
"""

from __future__ import annotations

import re
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from hofflight.errors import KafkaUnavailable, SettingsError
from hofflight.eventlog.topics import input_topic

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from hofflight.eventlog.protocol import Produce

Headers = list[tuple[str, bytes | None]]

BURIAL: Final = (
    "hof-error", "hof-code", "hof-topic", "hof-partition", "hof-offset", "hof-timestamp-ms",
)  # fmt: skip
_CODE: Final = re.compile(r"HOF-\d{3}", re.ASCII)
_PARTITION: Final = re.compile(r"\d{1,9}", re.ASCII)
_OFFSET: Final = re.compile(r"\d{1,18}", re.ASCII)
_TIMESTAMP: Final = re.compile(r"-?\d{1,18}", re.ASCII)
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)
_UNREADABLE: Final = "it cannot be read: the name of a header is not UTF-8"


class Burial(NamedTuple):
    """Why a worker buried a record, and where it lay."""

    error: str
    code: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class Letter(NamedTuple):
    """A record of the topic. headers: those that it came with. problem: why `burial` is None.

    number: its offset. time_ms: when it was buried, milliseconds since 1970.
    """

    number: int
    time_ms: int
    value: bytes | None
    headers: Headers
    burial: Burial | None
    problem: str = ""


class Outcome(NamedTuple):
    """Where a letter was put back; no partition where it was not. refused: why."""

    number: int
    topic: str | None
    partition: int | None
    refused: str = ""


class WayBack(NamedTuple):
    """Where records may go. registered: the input topics of groups; partitions: of those there.

    bytes_max: what the topics take. produce: None only says what it would do.
    """

    registered: frozenset[str]
    partitions: Mapping[str, int]
    bytes_max: int
    produce: Produce | None


class Choice(NamedTuple):
    """Which letters: these numbers, those of a code, or all."""

    numbers: tuple[int, ...] = ()
    code: str | None = None


class Reader(Protocol):
    """One partition's records. begin, end: the first offset, and the one after the last."""

    begin: int
    end: int

    async def first_since(self, time_ms: int) -> int:
        """The first offset whose time is not before; `end` if there is none."""
        ...

    def read(self, begin: int, end: int) -> AsyncGenerator[tuple[int, Any]]:
        """Each offset in order with its record; None for one that cannot be read.

        Offsets without a record are left out. Raises: KafkaUnavailable (HOF-512).
        """
        ...


class DeadLetters:
    """The letters of a topic as they were when it was opened. Thread: the reader's loop."""

    def __init__(self, reader: Reader, topic: str, prefix: str) -> None:
        self._reader = reader
        self.topic = topic
        self._prefix = prefix

    def count(self) -> int:
        """How many there are, at most."""
        return self._reader.end - self._reader.begin

    async def newest(
        self, limit: int, group: str | None, since_ms: int | None, advance: Callable[[int], None]
    ) -> list[dict[str, Any]]:
        """The newest letters, newest last, each as `summary` has it. advance: per letter read.

        Raises: KafkaUnavailable (HOF-512).
        """
        begin = self._reader.begin
        if since_ms is not None:
            begin = await self._reader.first_since(since_ms)
        elif group is None:
            begin = max(begin, self._reader.end - limit)
        # Without their values: of a million letters the newest are kept, not their bytes.
        found: deque[dict[str, Any]] = deque(maxlen=limit)
        async with aclosing(self._letters(begin, self._reader.end)) as letters:
            async for letter in letters:
                advance(1)
                is_old = since_ms is not None and letter.time_ms < since_ms
                if not is_old and group in (None, group_of(letter, self._prefix)):
                    found.append(summary(letter))
        return list(found)

    async def letter(self, number: int) -> Letter:
        """One of them.

        Raises: SettingsError (HOF-601), there is no such letter; KafkaUnavailable (HOF-512).
        """
        self._require(number)
        async with aclosing(self._letters(number, number + 1)) as letters:
            async for letter in letters:
                return letter
        raise self._unknown(number)

    async def put_back(
        self, choice: Choice, way: WayBack, advance: Callable[[int], None]
    ) -> list[Outcome]:
        """Put records back where they came from, in their order. advance: per letter.

        Raises: SettingsError (HOF-601), a number is unknown: nothing was put back;
            KafkaUnavailable (HOF-512), it says how far it came.
        """
        for number in choice.numbers:
            self._require(number)
        outcomes: list[Outcome] = []
        async with aclosing(self._chosen(choice, advance)) as letters:
            async for letter in letters:
                outcome = destination(letter, way)
                if way.produce is not None and outcome.partition is not None:
                    to = (str(outcome.topic), outcome.partition)
                    try:
                        await way.produce(*to, letter.value, letter.headers)
                    except Exception as error:
                        raise _stopped(letter, outcomes, error) from error
                outcomes.append(outcome)
        return outcomes

    async def _chosen(
        self, choice: Choice, advance: Callable[[int], None]
    ) -> AsyncGenerator[Letter]:
        if choice.numbers:
            for number in sorted(set(choice.numbers)):
                yield await self.letter(number)
                advance(1)
            return
        async with aclosing(self._letters(self._reader.begin, self._reader.end)) as letters:
            async for letter in letters:
                if choice.code is None or (letter.burial and letter.burial.code == choice.code):
                    yield letter
                advance(1)

    async def _letters(self, begin: int, end: int) -> AsyncGenerator[Letter]:
        async with aclosing(self._reader.read(begin, end)) as records:
            async for number, record in records:
                yield letter_of(number, record)

    def _require(self, number: int) -> None:
        if not self._reader.begin <= number < self._reader.end:
            raise self._unknown(number)

    def _unknown(self, number: int) -> SettingsError:
        begin, end = self._reader.begin, self._reader.end
        there = f"it has {begin} to {end - 1}" if begin < end else "it is empty"
        msg = f"there is no letter {number} in {self.topic}: {there}"
        return SettingsError(msg, hint="`hof dlq ls` shows the numbers")


def letter_of(number: int, record: Any) -> Letter:
    """A record as a letter, whoever wrote it; None is one that cannot be read."""
    if record is None:
        return Letter(number, -1, None, [], None, _UNREADABLE)
    headers = list(record.headers)
    burial = _burial(headers[-len(BURIAL) :])
    if isinstance(burial, str):
        return Letter(number, record.timestamp, record.value, headers, None, burial)
    own = headers[: -len(BURIAL)]
    return Letter(number, record.timestamp, record.value, own, burial)


def _burial(headers: Sequence[tuple[str, bytes | None]]) -> Burial | str:
    """What a worker said of a record, or why these headers are not a worker's."""
    if tuple(name for name, _ in headers) != BURIAL:
        return "no worker of ours buried it: its last headers are not ours"
    said = {}
    for name, value in headers:
        try:
            said[name] = (value or b"").decode()
        except UnicodeDecodeError:
            return f"no worker of ours buried it: {name} is not UTF-8"
    forms = {
        "hof-code": _CODE, "hof-topic": _TOPIC, "hof-partition": _PARTITION,
        "hof-offset": _OFFSET, "hof-timestamp-ms": _TIMESTAMP,
    }  # fmt: skip
    for name, form in forms.items():
        if not form.fullmatch(said[name]):
            return f"no worker of ours buried it: {name} is {said[name][:32]!r}"
    return Burial(
        said["hof-error"], said["hof-code"], said["hof-topic"], int(said["hof-partition"]),
        int(said["hof-offset"]), int(said["hof-timestamp-ms"]),
    )  # fmt: skip


def group_of(letter: Letter, prefix: str) -> str | None:
    """The group whose topic a letter says that it came from."""
    if letter.burial is None:
        return None
    start = input_topic("", prefix)
    if not letter.burial.topic.startswith(start):
        return None
    return letter.burial.topic.removeprefix(start).rpartition(".")[0]


def destination(letter: Letter, way: WayBack) -> Outcome:
    """Where a letter goes back to, or why it does not: its headers alone choose nothing."""
    if letter.burial is None:
        return Outcome(letter.number, None, None, letter.problem)
    if letter.value is None and not letter.headers:
        return Outcome(letter.number, None, None, "its bytes are not here")
    topic, partition = letter.burial.topic, letter.burial.partition
    count, size = way.partitions.get(topic), _size(letter)
    if topic not in way.registered:
        refused = "no registered group has this input topic"
    elif count is None:
        refused = "the topic is gone"
    elif partition >= count:
        refused = f"the topic has {count} partitions, it came from {partition}"
    elif size > way.bytes_max:
        # No broker would take it, and a producer that was refused one sends none after it.
        refused = f"of {size} bytes, records have {way.bytes_max}"
    else:
        return Outcome(letter.number, topic, partition)
    return Outcome(letter.number, topic, None, refused)


def _size(letter: Letter) -> int:
    """Bytes of a record batch that holds it: 61 and 21 around it, 5 for a length."""
    headers = sum(len(name.encode()) + len(value or b"") + 10 for name, value in letter.headers)
    return 61 + 21 + 5 + len(letter.value or b"") + headers


def summary(letter: Letter) -> dict[str, Any]:
    """A letter in short, without its bytes."""
    burial = letter.burial
    return {
        "number": letter.number,
        "time_ms": letter.time_ms,
        "topic": burial.topic if burial else None,
        "partition": burial.partition if burial else None,
        "offset": burial.offset if burial else None,
        "code": burial.code if burial else None,
        "error": burial.error if burial else letter.problem,
        "bytes": None if letter.value is None else len(letter.value),
    }


def _stopped(letter: Letter, outcomes: list[Outcome], error: Exception) -> KafkaUnavailable:
    done = sum(not outcome.refused for outcome in outcomes)
    msg = f"{done} letters were put back, then {letter.number}: {type(error).__name__}: {error}"
    hint = f"it may be there or not; go on with {letter.number}, a request counts once"
    return KafkaUnavailable(msg, hint=hint)
