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

    status: by feature, a value for all rows or a list: every stored feature (PRESENT, NULL,
    NOT_FOUND, STALE, UNAVAILABLE), and computed ones that are not OK (OVERFLOW, LATE).
    late: per row, whether it came too late to be counted, in any of the view's groups.
    age_ms: of each stored feature, since its row holds; None where there is none.
    group_late: `late` of each streaming group, where the view has several.
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
    group_late: dict[str, list[bool]] = field(default_factory=dict)

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

        An integer beyond 2^53 is rounded there, as numpy does. Any other type (text, times, lists)
        makes it objects: Python values as in `to_dict`, None for null.
        """
        import numpy as np
        import pyarrow as pa

        def is_number(kind: pa.DataType) -> bool:
            types = pa.types
            number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
            return number or types.is_null(kind)

        if all(is_number(kind) for kind in self.batch.schema.types):
            numbers = np.empty((self.batch.num_rows, self.batch.num_columns), dtype=np.float64)
            for at, column in enumerate(self.batch.columns):
                floats = column.cast(pa.float64(), safe=False).fill_null(float("nan"))
                numbers[:, at] = floats.to_numpy(zero_copy_only=False)
            return numbers
        objects = np.empty((self.batch.num_rows, self.batch.num_columns), dtype=np.object_)
        for at, column in enumerate(self.batch.columns):
            # Cell by cell: assigned as a whole, lists of one length would become more dimensions.
            for row, value in enumerate(column.to_pylist()):
                objects[row, at] = value
        return objects


def vector_of(batch: pa.RecordBatch, meta: AnswerMeta) -> Vector:
    """The vector of an answer whose code is OK."""

    def of_each(late: bool | list[bool]) -> list[bool]:
        return late if isinstance(late, list) else [late] * batch.num_rows

    return Vector(
        batch, meta.id or b"", meta.view, meta.version, meta.code_hash, of_each(meta.late),
        meta.status, meta.age_ms, meta.timings_us,
        {group: of_each(late) for group, late in meta.group_late.items()},
    )  # fmt: skip
