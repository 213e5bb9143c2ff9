"""Where servers and workers meet: what a server hands over, and what a log promises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import pyarrow as pa

from hofflight.eventlog.joins import Beside, JoinRecord

if TYPE_CHECKING:
    from hofflight.features.stored import StoredGroup
    from hofflight.features.view import OnMissing
    from hofflight.wire.envelope import AnswerMeta

NO_COLUMNS = pa.schema([])


@dataclass(frozen=True, slots=True)
class Served:
    """A view (or a group's implicit view) as a server needs it: names and schemas, no code.

    `output_schema` names its columns `group.feature`; its order is the vector's contract.
    `gains_from_company`: requests handed over together are cheaper than one by one, as where a
    user's function is called once for all; others had better go at once.

    A view of several groups is joined: each streaming group answers for its columns of the view
    (`parts`), rows of `stored` groups are looked up by key, where `keys` are the columns of keys
    that no row has and the request gives. `group` is its first streaming group, "" without one.
    is_part: its answers are values for whoever joins them, in no bytes.

    partition_key, partitions: the input columns of the key by whose hash rows are spread, and over
    how many partitions; 0 where nothing is spread.
    """

    view: str
    version: int
    group: str
    group_version: int
    code_hash: str
    input_schema: pa.Schema
    output_schema: pa.Schema
    labels: tuple[str, ...] = ()
    gains_from_company: bool = False
    parts: tuple[Served, ...] = ()
    stored: tuple[StoredGroup, ...] = ()
    keys: pa.Schema = NO_COLUMNS
    on_missing: OnMissing = "mark"
    is_part: bool = False
    partition_key: tuple[str, ...] = ()
    partitions: int = 0

    @property
    def is_joined(self) -> bool:
        """Whether an answer is put together from several parts."""
        return bool(self.parts or self.stored)


@dataclass(slots=True)
class Answer:
    """What goes back: metadata and a batch of the view's output schema (zero rows on error).

    values: of a part, in place of bytes: one row's plain values, or a batch.
    """

    meta: AnswerMeta
    head: bytes
    body: bytes
    values: list[Any] | pa.RecordBatch | None = None


@dataclass(slots=True)
class Request:
    """One batch of raw rows under way, exactly as it came off the wire.

    id: 16 bytes. deadline_s: on the monotonic clock. store: False peeks. wants_answer: False for
    events without answers (DoPut); the answer then has metadata and zero rows.
    keys: of stored groups, unchecked. key_hash: of the only key of its rows, where the client says
    so. offset: where it stands in a Kafka partition, -1 where there is none. arrival_us: when it
    came, 0 for now. reply: called exactly once, from any thread; use `finish`.
    raw: plain values of its only row, where somebody has read and checked them. beside: what was
    looked up for it. is_logged: its rows count, whatever becomes of the reply.
    record: what the log says of them, once they are there. looked_up: of each row, on its way to
    whoever records it. places: which of a request's rows these are; empty: all.
    """

    served: Served
    head: bytes
    body: bytes
    id: bytes
    reply: Callable[[Answer], None]
    deadline_s: float | None = None
    store: bool = True
    wants_answer: bool = True
    keys: Mapping[str, Any] | None = None
    raw: list[Any] | None = None
    beside: Beside | None = None
    is_finished: bool = False
    is_logged: bool = False
    record: EntryMeta | None = None
    key_hash: int | None = None
    offset: int = -1
    arrival_us: int = 0
    looked_up: list[JoinRecord] | None = None
    places: list[int] = field(default_factory=list)

    def finish(self, answer: Answer) -> None:
        """Reply, unless somebody did: a watchdog may have answered for a thread that hung."""
        if not self.is_finished:
            self.is_finished = True
            self.reply(answer)


class Worker(Protocol):
    """Whoever answers requests: the embedded engine, or a Kafka topic with Spark behind it."""

    def views(self) -> list[Served]:
        """Every view that can be asked for, implicit ones included, by name and version."""
        ...

    def bind(self, view: str, version: int | None) -> Served:
        """The view of that name; the newest version for None.

        Raises: UnknownView (HOF-201), CodeNotLoaded (HOF-504).
        """
        ...

    def remembers(self, request: Request) -> bool:
        """Whether a request of this id was answered before."""
        ...

    def check(self, request: Request) -> None:
        """Refuse what would be refused before it is logged; nothing is kept.

        Raises: BadRequest (HOF-2xx), Refused (HOF-3xx).
        """
        ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Take over requests that waited together. Never raises: every outcome is a reply.

        Thread: the caller's; replies may come before this returns, or later from other threads.
        """
        ...


class Produce(Protocol):
    """Hands a record to the brokers; what it gives ends when they have it, or raises."""

    def __call__(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> Awaitable[Any]:
        """Send it."""
        ...


class EntryMeta(msgspec.Struct, array_like=True):
    """What a log entry says beside its bytes; written as a msgpack array, in this order.

    number: the record's order in its log, from 1; row i has seq = number << 20 | i.
    code: `OK`, or the code of the void mark: then none of its rows counts.
    late: rows that came too late; empty when none did. overflow: rows whose window
    sum left int64, by window.
    answered: False for events taken in without an answer. joined: what each row was joined from.
    offset: of the Kafka record that brought it, -1 where none did. places: which of its request's
    rows these are, where others are in other partitions; empty: all.
    """

    number: int
    arrival_us: int
    id: bytes
    rows: int
    view: str
    view_version: int
    group_version: int
    code_hash: str
    code: str
    answered: bool = True
    late: list[int] = []
    overflow: dict[str, list[int]] = {}
    error: str = ""
    joined: list[JoinRecord] = []
    offset: int = -1
    places: list[int] = []


class Entry(NamedTuple):
    """One frame of the log: raw rows and their answer (the group's full rows), or a void mark.

    They are one frame so that a crash keeps both or neither.
    """

    meta: EntryMeta
    head: bytes
    body: bytes
    answer_head: bytes
    answer_body: bytes


class EventLog(Protocol):
    """The ordered raw micro-batches of one (group, input schema), with their answers.

    `append` hands all entries to the operating system before it returns, or none: what was
    appended survives the death of the process. What survives a power loss is the store's
    `durability`; `is_durable_at_once` says that nobody waits for it, `failed` why nothing more can
    be written (empty while it can). One writer; readers see whole entries only.
    """

    is_durable_at_once: bool
    failed: str

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Write entries with ascending numbers and give the position of each, for `entry_at`.

        Raises: StorageFailed (HOF-304); nothing was written.
        """
        ...

    def last_number(self) -> int:
        """Number of the last entry; 0 when empty."""
        ...

    def first_number(self) -> int:
        """Number of the first entry that was not trimmed; 1 when nothing ever was."""
        ...

    def trim(self, through: int) -> int:
        """Forget what can be forgotten of the entries up to `through`; gives the bytes freed."""
        ...

    def read(self, after: int = 0) -> Iterator[tuple[int, Entry]]:
        """(position, entry) of every entry with a number greater than `after`, in order.

        Raises: LogCorrupt (HOF-502).
        """
        ...

    def read_meta(self, after: int = 0) -> Iterator[tuple[int, EntryMeta]]:
        """What `read` gives, without the rows: cheap enough to look for ids."""
        ...

    def entry_at(self, position: int) -> Entry:
        """The entry at a position that `append` or `read` gave."""
        ...

    def when_durable(self, done: Callable[[], None]) -> None:
        """Call `done` once everything appended so far is as durable as promised, or `failed`.

        Thread: the log's sync thread.
        """
        ...

    def close(self) -> None:
        """Make everything durable and let go of the files."""
        ...
