"""Which partition a key belongs to: Kafka's own murmur2 of its canonical bytes.

A Java producer with the default partitioner and the same key bytes chooses the same partition:
`org.apache.kafka.common.utils.Utils.murmur2`, and `Utils.toPositive(hash) % partitions`.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from hofflight.wire.keys import KEY_BYTES_MAX

if TYPE_CHECKING:
    import pyarrow as pa

Hashes: TypeAlias = np.ndarray[Any, np.dtype[np.uint32]]

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_U32: Final = 0xFFFFFFFF
# Java's hash is signed; Kafka drops its sign bit.
_POSITIVE: Final = 0x7FFFFFFF
# A key of n words is read by the n-th, without looking a format up.
_WORDS: Final = tuple(Struct(f"<{n}I") for n in range(KEY_BYTES_MAX // 4 + 1))


def murmur2(data: bytes) -> int:
    """The hash of a key, 0 to 2^32 - 1."""
    size = len(data)
    count = size >> 2
    words = _WORDS[count] if count < len(_WORDS) else Struct(f"<{count}I")
    h = _SEED ^ size
    for word in words.unpack_from(data):
        k = word * _M & _U32
        # One mask for both products: xor leaves the bits above it alone.
        h = (h * _M ^ (k ^ k >> 24) * _M) & _U32
    if size & 3:
        h = (h ^ int.from_bytes(data[count << 2 :], "little")) * _M & _U32
    h = (h ^ h >> 13) * _M & _U32
    return h ^ h >> 15


def hash_columns(keys: pa.Array) -> Hashes:
    """The hash of each key of a binary column without nulls, in its order."""
    assert keys.null_count == 0
    hashes = np.empty(len(keys), np.uint32)
    if not len(keys):
        return hashes
    offsets = np.frombuffer(keys.buffers()[1], np.int32)[keys.offset :][: len(keys) + 1]
    sizes = np.diff(offsets)
    if (sizes == sizes[0]).all():  # integers: 12 bytes each, and as they lie
        return _hash_rows(keys, int(sizes[0]))
    order = np.argsort(sizes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(sizes[order])) + 1):
        hashes[rows] = _hash_rows(keys.take(rows), int(sizes[rows[0]]))
    return hashes


def partition_of(key_hash: int, partitions: int) -> int:
    """The partition of a hash, 0 to `partitions` - 1."""
    return (key_hash & _POSITIVE) % partitions


def partitions_of(hashes: Hashes, partitions: int) -> Hashes:
    """The partition of each hash."""
    return (hashes & np.uint32(_POSITIVE)) % np.uint32(partitions)


def _hash_rows(keys: pa.Array, size: int) -> Hashes:
    """`murmur2` of keys of one size, a word of all of them at a time."""
    count = len(keys)
    m = np.uint32(_M)
    h: Hashes = np.full(count, _SEED ^ size, np.uint32)
    if size:
        _, offsets, data = keys.buffers()
        start = np.frombuffer(offsets, np.int32)[keys.offset]
        rows = np.frombuffer(data, np.uint8)[start : start + count * size].reshape(count, size)
        whole = size & ~3
        for word in np.ascontiguousarray(rows[:, :whole]).view("<u4").T:
            k = word * m
            h = h * m ^ (k ^ k >> np.uint32(24)) * m
        if size > whole:
            for place, column in enumerate(rows[:, whole:].T):
                h ^= column.astype(np.uint32) << (8 * place)
            h *= m
    h = (h ^ h >> np.uint32(13)) * m
    return h ^ h >> np.uint32(15)
