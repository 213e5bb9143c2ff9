"""The feature vector that a caller gets: columns in the order that the model was trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from hofflight.wire.envelope import AnswerMeta


@dataclass(frozen=True)
class Vector:
    """One answer. Columns are named `group.feature`, one row per row asked.

    status: features that are not OK, per feature: a value for all rows or a list (OVERFLOW, LATE).
    late: per row, whether it came too late to be counted.
    age_ms: age of each stored feature; empty without stored groups.
    timings_us: where the time went inside the server.
    """

    batch: pa.RecordBatch
    request_id: bytes
    view: str
    version: int
    code_hash: str
    late: list[bool]
    status: dict[str, Any] = field(default_factory=dict)
    age_ms: dict[str, Any] = field(default_factory=dict)
    timings_us: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any] | list[dict[str, Any]]:
        """The only row as a dict; a list of dicts where there are several."""
        rows: list[dict[str, Any]] = self.batch.to_pylist()
        return rows[0] if len(rows) == 1 else rows

    def to_pandas(self) -> pd.DataFrame:
        """A pandas frame with Arrow-backed columns: nulls stay nulls, integers stay integers."""
        import pandas as pd

        return self.batch.to_pandas(types_mapper=pd.ArrowDtype)

    def to_polars(self) -> pl.DataFrame:
        """A polars frame."""
        import polars as pl

        frame = pl.from_arrow(self.batch)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def to_numpy(self) -> npt.NDArray[np.object_] | npt.NDArray[np.float64]:
        """Rows x features: float64 (null is NaN) when every feature is a number or a bool.

        An integer beyond 2^53 is rounded there, as numpy does; other types give objects.
        """
        import numpy as np

        columns = [
            [None if v is None else v for v in column.to_pylist()] for column in self.batch.columns
        ]
        numbers = all(isinstance(v, bool | int | float) or v is None for c in columns for v in c)
        if not numbers:
            return np.array(columns, dtype=object).T
        nan = float("nan")
        return np.array([[nan if v is None else v for v in c] for c in columns], dtype=np.float64).T


def vector_of(batch: pa.RecordBatch, meta: AnswerMeta) -> Vector:
    """The vector of an answer whose code is OK."""
    late = meta.late if isinstance(meta.late, list) else [meta.late] * batch.num_rows
    return Vector(
        batch, meta.id or b"", meta.view, meta.version, meta.code_hash, late,
        meta.status, meta.age_ms, meta.timings_us,
    )  # fmt: skip
