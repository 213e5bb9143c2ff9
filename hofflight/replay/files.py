"""Files that users bring: labels and stored rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from hofflight.wire.schema import TIMESTAMP

if TYPE_CHECKING:
    from pathlib import Path


def read_file(path: Path, types: pa.Schema) -> pa.Table:
    """All rows of a Parquet, CSV, JSON lines or Arrow file.

    `types`: of columns that a CSV may have, whose text does not tell numbers from digits.
    Raises: OSError, pa.ArrowException, it cannot be read.
    """
    kind = path.suffix.lower()
    if kind == ".csv":
        options = pyarrow.csv.ConvertOptions(column_types=types)
        return pyarrow.csv.read_csv(path, convert_options=options)
    if kind in (".json", ".jsonl", ".ndjson"):
        return _read_json(path, types)
    if kind in (".arrow", ".feather", ".ipc"):
        with pa.OSFile(str(path)) as file:
            return pa.ipc.open_file(file).read_all()
    return pq.ParquetFile(path).read()


def _read_json(path: Path, types: pa.Schema) -> pa.Table:
    """JSON lines; the reader drops time zones, so times are read again as text, and converted."""
    table = pyarrow.json.read_json(path)
    looks_like_time = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    if looks_like_time:
        texts = pa.schema([(name, pa.string()) for name in looks_like_time])
        options = pyarrow.json.ParseOptions(explicit_schema=texts)
        table = pyarrow.json.read_json(path, parse_options=options)
    declared = dict(zip(types.names, types.types, strict=True))
    for name in table.column_names:
        is_text = table.schema.field(name).type == pa.string()
        is_time = declared.get(name, TIMESTAMP if name in looks_like_time else None) == TIMESTAMP
        if is_text and is_time:
            column = table[name].cast(TIMESTAMP)
            table = table.set_column(table.schema.get_field_index(name), name, column)
    return table
