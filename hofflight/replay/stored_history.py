"""What was ever loaded into a stored group: a Parquet file a load, and which of them count.

```
stored/customer.2/manifest.json      the one commit point of a load
stored/customer.2/00000003.parquet   rows of load 3, by key and event time
```

The history is what training joins with: a row as it was known then. The online store has only the
newest row of each key, and can be filled again from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from hofflight.errors import SealDamaged
from hofflight.online.slots import Commits
from hofflight.replay.manifests import read_manifest, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hofflight.features.stored import StoredGroup

FORMAT: Final = 1


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A committed load; times in microseconds since 1970. visible_us: when lookups saw it, or 0."""

    load: int
    rows: int
    bytes: int
    oldest_us: int
    newest_us: int
    committed_us: int
    visible_us: int = 0


class StoredManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The committed loads. open: one that is being written, or was when its process died.

    first: the number of the first load there ever was; an online store may remember others, of a
    history that is gone. voided: loads that were broken off; their rows may be in the online store,
    and never count.
    """

    format: int = FORMAT
    next: int = 1
    first: int = 1
    open: int = 0
    voided: tuple[int, ...] = ()
    loads: tuple[Load, ...] = ()

    @property
    def commits(self) -> Commits:
        """Which loads count."""
        last = self.loads[-1].load if self.loads else 0
        return Commits(last, frozenset(n for n in self.voided if n < last), self.first)

    @property
    def newest_us(self) -> int | None:
        """The newest event time there is."""
        return max((load.newest_us for load in self.loads), default=None)


class StoredHistory:
    """The loads of one version of a stored group. One process writes at a time, any may read."""

    def __init__(self, directory: Path, group: StoredGroup) -> None:
        self.directory = directory
        self.group = group
        self.path = directory / "manifest.json"

    def manifest(self) -> StoredManifest:
        """What is loaded now.

        Raises: SealDamaged (HOF-506).
        """
        return read_manifest(self.path, StoredManifest, self.directory.name)

    def publish(self, manifest: StoredManifest) -> None:
        """Make a manifest the one that counts."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_manifest(self.path, manifest)

    def file(self, load: int) -> Path:
        """Where the rows of a load are."""
        return self.directory / f"{load:08d}.parquet"

    def batches(self, load: Load) -> Iterator[pa.RecordBatch]:
        """The rows of a load, of exactly the group's schema.

        Raises: SealDamaged (HOF-506), missing, cut, or not of this schema.
        """
        path = self.file(load.load)
        what = f"load {load.load} of {self.directory.name}"
        try:
            if path.stat().st_size != load.bytes:
                msg = f"{what} has {path.stat().st_size} bytes, {load.bytes} were written"
                raise SealDamaged(msg, hint="restore the file from a backup")
            found = pq.ParquetFile(path, page_checksum_verification=True)
            if not found.schema_arrow.equals(self.group.schema):
                raise SealDamaged(f"{what} has other columns than the group")
            if found.metadata.num_rows != load.rows:
                raise SealDamaged(f"{what} has {found.metadata.num_rows} rows, not {load.rows}")
            rows = 0
            for batch in found.iter_batches():
                rows += batch.num_rows
                yield batch
            if rows != load.rows:
                raise SealDamaged(f"{what} gives {rows} rows, not {load.rows}")
        except FileNotFoundError:
            raise SealDamaged(f"{what} is missing", hint="restore the file") from None
        except (OSError, ValueError, pa.ArrowException) as error:
            msg = f"{what}: {str(error).splitlines()[0][:200]}"
            raise SealDamaged(msg, hint="restore the file from a backup") from error
