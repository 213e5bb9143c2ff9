"""The key hash that a request carries: the partition that all of its rows belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from hofflight.wire.columns import first_value
from hofflight.wire.key_hash import hash_columns, murmur2, partition_of, partitions_of
from hofflight.wire.keys import KeyCodec

if TYPE_CHECKING:
    from collections.abc import Sequence


class KeyHasher:
    """Hashes the keys of batches of one view, whose server keeps rows of a key together."""

    def __init__(self, schema: pa.Schema, partition_key: Sequence[str], partitions: int) -> None:
        self._at = [schema.names.index(name) for name in partition_key]
        self._codec = KeyCodec(pa.schema([schema.field(at) for at in self._at]))
        self._partitions = partitions

    def of(self, batch: pa.RecordBatch) -> int | None:
        """The hash of the first row, where its partition is that of all rows.

        None where it is not, and where a key is null or no text: the server looks itself then, and
        refuses what is to be refused.
        """
        rows = batch.num_rows
        first = self._hash_of_first(batch) if rows else None
        if first is None or rows == 1 or self._partitions == 1:
            return first
        # Columns cost 90 us, one row 3: most batches of several keys show it by their ends.
        last = self._hash_of_first(batch.slice(rows - 1))
        own = partition_of(first, self._partitions)
        if last is None or partition_of(last, self._partitions) != own:
            return None
        keys = self._codec.encode_columns([batch.column(at) for at in self._at])
        if keys.null_count:
            return None
        found = partitions_of(hash_columns(keys), self._partitions)
        return first if (found == own).all() else None

    def _hash_of_first(self, batch: pa.RecordBatch) -> int | None:
        try:
            key = self._codec.encode([first_value(batch.column(at)) for at in self._at])
        except UnicodeDecodeError:
            return None
        return None if key is None else murmur2(key)
