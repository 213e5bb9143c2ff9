"""Sealed segments: the part of a log that has become Parquet, and the manifest that says which.

```
sealed/card_tx.1/manifest.json                             the one commit point
sealed/card_tx.1/version=2/day=2026-11-24/FIRST-LAST.parquet   rows of records FIRST to LAST
sealed/card_tx.1/voids/FIRST-LAST.parquet                  what was refused, with its bytes
```

A file that the manifest does not list is not there: a crash may leave one, the next seal removes
it. So nothing is ever counted twice, and what is missing is known by name.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hofflight.errors import SealDamaged
from hofflight.replay.logged import ANSWER, BESIDE, logged_schema, number_of, selected
from hofflight.replay.manifests import read_manifest, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

FORMAT: Final = 1
_DAY: Final = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
VOIDS: Final = pa.schema([
    ("number", pa.int64()), ("arrival_us", pa.int64()), ("request_id", pa.binary()),
    ("view", pa.string()), ("view_version", pa.int32()), ("group_version", pa.int32()),
    ("code_hash", pa.string()), ("code", pa.string()), ("error", pa.string()),
    ("head", pa.binary()), ("body", pa.binary()),
])  # fmt: skip


class SealedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the manifest; `version` 0: void marks. Its records lie in `first` to `last`."""

    path: str
    version: int
    first: int
    last: int
    rows: int
    bytes: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is sealed: every record up to `sealed_to`, in these files."""

    format: int = FORMAT
    sealed_to: int = 0
    files: tuple[SealedFile, ...] = ()


class SealedLog:
    """The sealed part of one log. Readers need no lock: the manifest changes in one step."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "manifest.json"

    @property
    def name(self) -> str:
        """The log's name."""
        return self.directory.name

    def manifest(self) -> Manifest:
        """What is sealed now.

        Raises: SealDamaged (HOF-506).
        """
        found = read_manifest(self.path, Manifest, f"the sealed log {self.name}")
        self._check(found)
        return found

    def sealed_us(self) -> int:
        """When it was last sealed, microseconds since 1970; 0 for never."""
        try:
            return self.path.stat().st_mtime_ns // 1_000
        except FileNotFoundError:
            return 0

    def publish(self, manifest: Manifest) -> None:
        """Make a manifest the one that counts."""
        write_manifest(self.path, manifest)

    def read(
        self, file: SealedFile, raw: pa.Schema, full: pa.Schema | None, columns: Sequence[str]
    ) -> pa.RecordBatch:
        """The named columns of a file of rows; `full`: the group's full row of its version.

        Raises: SealDamaged (HOF-506), missing, cut, changed, or not of this log's schema.
        """
        found = self._open(file, logged_schema(raw, full), is_exact=full is not None)
        with self._reading(file):
            table = found.read(columns=list(columns))
        batches = table.combine_chunks().to_batches()
        empty = pa.RecordBatch.from_pylist([], schema=table.schema)
        return selected(batches[0] if batches else empty, columns)

    def read_voids(self, file: SealedFile) -> pa.Table:
        """Void marks, with the bytes that were refused.

        Raises: SealDamaged (HOF-506).
        """
        found = self._open(file, VOIDS, is_exact=True)
        with self._reading(file):
            return found.read()

    def orphans(self, manifest: Manifest) -> Iterator[Path]:
        """Files here that look like ours and are none of the manifest's."""
        listed = {self.directory / file.path for file in manifest.files}
        for path in self.directory.rglob("*"):
            if path.suffix in (".parquet", ".tmp") and path not in listed and path.is_file():
                yield path

    def _open(self, file: SealedFile, schema: pa.Schema, *, is_exact: bool) -> pq.ParquetFile:
        path = self.directory / file.path
        with self._reading(file):
            size = path.stat().st_size
            if size != file.bytes:
                raise self._damaged(file, f"it has {size} bytes, {file.bytes} were sealed")
            found = pq.ParquetFile(path, page_checksum_verification=True)
        if found.metadata.num_rows != file.rows:
            raise self._damaged(file, f"{found.metadata.num_rows} rows, {file.rows} were sealed")
        self._require(file, schema, found.schema_arrow, is_exact=is_exact)
        return found

    @contextmanager
    def _reading(self, file: SealedFile) -> Iterator[None]:
        """What goes wrong in the block is damage of the file."""
        try:
            yield
        except FileNotFoundError:
            raise self._damaged(file, "it is missing") from None
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(file, str(error).splitlines()[0][:200]) from error

    def _require(
        self, file: SealedFile, wanted: pa.Schema, got: pa.Schema, *, is_exact: bool
    ) -> None:
        """Without the type of the answers (their code is not at hand) that column is let pass."""
        types: Mapping[str, pa.DataType] = dict(zip(got.names, got.types, strict=True))
        for field in wanted:
            if got.names.count(field.name) != 1:
                raise self._damaged(file, f"column {field.name!r} is missing or there twice")
            if types[field.name] != field.type:
                what = f"column {field.name!r} is {types[field.name]}, sealed was {field.type}"
                raise self._damaged(file, what)
        known = {*wanted.names, BESIDE} if is_exact else {*wanted.names, BESIDE, ANSWER}
        if extra := [name for name in got.names if name not in known]:
            raise self._damaged(file, f"columns {extra} were not sealed")

    def _check(self, manifest: Manifest) -> None:
        """Paths stay inside and say what their file holds; each seal's files follow the last's."""
        first, end = 1, 0
        seen = set()
        for file in manifest.files:
            folder = rf"version={file.version}/day={_DAY}" if file.version else "voids"
            if not re.fullmatch(
                rf"{folder}/{file.first:019d}-{file.last:019d}\.parquet", file.path
            ):
                raise self._damaged(file, "that is no name of such a sealed file")
            if file.first > end:
                first, end = end + 1, file.last
            if file.path in seen or (file.first, file.last) != (first, end) or end < first:
                raise self._damaged(file, "its records are listed twice, or some before it are not")
            seen.add(file.path)
        if end != manifest.sealed_to:
            msg = f"the manifest of {self.name} lists records up to {end}, not {manifest.sealed_to}"
            raise SealDamaged(msg, hint="restore manifest.json from a backup")

    def _damaged(self, file: SealedFile, what: str) -> SealDamaged:
        msg = f"sealed file {file.path!r} of {self.name}: {what}"
        return SealDamaged(msg, hint="restore it from a backup; the other files are intact")


def in_range(batch: pa.RecordBatch, after: int, last: int) -> pa.RecordBatch:
    """The rows of records `after` + 1 to `last`."""
    number = number_of(batch.column("_seq").to_numpy())
    keep = (number > after) & (number <= last)
    return batch if np.all(keep) else batch.filter(pa.array(keep))
