"""Parquet files that are whole or not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pyarrow.parquet as pq

from hofflight.eventlog.directory import whole_file

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

ROW_GROUP_ROWS: Final = 65_536


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
