"""Parquet files that are whole or not there."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pyarrow.parquet as pq

from hofflight.eventlog.directory import sync_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

ROW_GROUP_ROWS: Final = 65_536


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the name to write under; at the end of the block the file is durable at `path`.

    Where the block raises, nothing is left. Who writes to the same path at the same time writes
    under another name, and the last one wins.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield fresh
        sync_path(fresh)
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)
    sync_path(path.parent)


def write_whole(table: pa.Table, path: Path) -> int:
    """Write a table, checksums in every page, folders made; gives the file's size."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with whole_file(path) as fresh:
        pq.write_table(
            table,
            fresh,
            compression="zstd",
            row_group_size=ROW_GROUP_ROWS,
            write_page_checksum=True,
        )
    return path.stat().st_size
