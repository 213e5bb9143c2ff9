"""Training data, parity and labels over Flight: a process of its own, so that serving never waits.

Replay takes seconds and gigabytes. Here it runs as the `hof` command would, niced, one at a time,
beside this process, which only passes on what comes out of it.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson
import pyarrow as pa

from hofflight import limits
from hofflight.errors import (
    BadRange,
    BadRequest,
    InternalError,
    Overloaded,
    read_error,
)
from hofflight.features.group import NAME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

_RETRY_AFTER_MS: Final = 1_000
_BATCH_ROWS: Final = 8_192
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION_MAX: Final = 999_999_999  # nine digits, as in `group@2.column`


class TrainingTicket(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON of a DoGet ticket. Moments are ISO 8601 text or microseconds since 1970."""

    view: str
    version: int | None = None
    start: str | int | None = None
    end: str | int | None = None
    as_of: str = "arrival"
    split: dict[str, int | float | str] | None = None
    engine: str = "auto"
    ids: bool = False


class VerifyBody(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON body of the `verify` action."""

    view: str
    version: int | None = None
    since: str | int | None = None
    sample: float | None = None
    explain: str | None = None


class LabelBody(msgspec.Struct, forbid_unknown_fields=True):
    """The msgpack body of the `label` action; `table`: an Arrow IPC file."""

    view: str
    table: bytes
    version: int | None = None


class OfflineProcess:
    """Runs the offline verbs of a store. `command`: how `hof` is called here.

    environment: of the processes; this one's for None.
    """

    def __init__(
        self,
        command: Sequence[str],
        store: Path,
        modules: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = ("nice", "-n", "10", *command)
        self._store = str(store)
        self._modules = ",".join(modules)
        self._environment = environment
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def train(self, ticket: bytes) -> AsyncIterator[tuple[pa.Schema, Iterator[Any]]]:
        """Schema and batches of a training table.

        Raises: HofError, as `hof train` says it; Overloaded (HOF-301), another one runs.
        """
        asked = _decoded(ticket, TrainingTicket)
        options = [_option("--as-of", asked.as_of), _option("--engine", asked.engine)]
        options += _moment("--from", asked.start) + _moment("--until", asked.end)
        if asked.split is not None:
            options.append(_option("--split", orjson.dumps(asked.split).decode()))
        if asked.ids:
            options.append("--ids")
        with tempfile.TemporaryDirectory(prefix="hof-train-") as folder:
            out = Path(folder) / "train.arrow"
            view = _named(asked.view, asked.version)
            await self._run("train", *options, "--modules", self._modules, "--out", str(out), view)
            with pa.memory_map(str(out)) as file:
                reader = pa.ipc.open_file(file)
                yield reader.schema, _batches(reader)

    async def verify(self, body: bytes) -> bytes:
        """The JSON of a Parity, with `explained`.

        Raises: as `train`.
        """
        asked = _decoded(body, VerifyBody)
        options = _moment("--since", asked.since)
        if asked.sample is not None:
            options.append(_option("--sample", repr(asked.sample)))
        if asked.explain is not None:
            options.append(_option("--explain", asked.explain))
        view = _named(asked.view, asked.version)
        return await self._run("verify", *options, "--modules", self._modules, view)

    async def label(self, body: bytes) -> bytes:
        """The JSON of what was kept.

        Raises: as `train`.
        """
        try:
            asked = msgspec.msgpack.decode(body, type=LabelBody)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise BadRequest(f"the body of label is not what it should be: {error}") from None
        with tempfile.TemporaryDirectory(prefix="hof-label-") as folder:
            file = Path(folder) / "labels.arrow"
            file.write_bytes(asked.table)
            return await self._run("label", _named(asked.view, asked.version), str(file))

    async def _run(self, verb: str, *arguments: str) -> bytes:
        """What a verb printed as JSON; it is killed with the call that wanted it."""
        if self._turn.locked():
            msg = "training data or parity is being made already"
            raise Overloaded(msg, hint="one at a time", retry_after_ms=_RETRY_AFTER_MS)
        async with self._turn:
            process = await asyncio.create_subprocess_exec(
                *self._command, verb, "--json", "--store", self._store, *arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, env=self._environment,
            )  # fmt: skip
            try:
                printed, said = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        # `verify` ends with 1 where something differs, and prints what.
        if printed:
            return printed
        raise read_error(said.decode(errors="replace")) or InternalError(
            "the offline process failed; the server's log has no more"
        )


def _batches(reader: Any) -> Iterator[Any]:
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            yield batch.slice(start, _BATCH_ROWS)


def _decoded(body: bytes, kind: Any) -> Any:
    if len(body) > limits.action_bytes_max:
        msg = f"{len(body)} bytes, at most {limits.action_bytes_max}"
        raise BadRequest(msg)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"it is not the JSON it should be: {error}") from None


def _named(view: str, version: int | None) -> str:
    """`view@version`; a name that begins like an option would be read as one."""
    if not NAME.fullmatch(view):
        raise BadRequest(f"{view[:100]!r} is no name of a view")
    if version is None:
        return view
    if not 0 < version <= _VERSION_MAX:
        raise BadRequest(f"a version is a number from 1 to {_VERSION_MAX}")
    return f"{view}@{version}"


def _moment(option: str, moment: str | int | None) -> list[str]:
    """The option for a moment; microseconds as text, since the command line reads no others."""
    if moment is None:
        return []
    if isinstance(moment, str):
        return [_option(option, moment)]
    try:
        return [_option(option, (_EPOCH + timedelta(microseconds=moment)).isoformat())]
    except OverflowError:
        raise BadRange(f"{option}: {moment:.3g} microseconds are no time") from None


def _option(name: str, value: str) -> str:
    """One word, so that a value which begins like an option is none.

    Raises: BadRequest (HOF-200), a NUL, which no command line can hold.
    """
    if "\0" in value:
        raise BadRequest(f"{name}: {value[:100]!r} holds a NUL")
    return f"{name}={value}"
