"""Served against replayed: each answer record beside what DuckDB makes of the log.

Raw, output and window columns are computed again from the log. Derived columns are computed again
from the windows that were served: so each step is judged by itself, and a float that differs in its
last bit within the declared tolerance is no difference of everything that follows from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hofflight.replay.equality import close, same
from hofflight.replay.logged import ABOUT, ANSWER
from hofflight.replay.partitioned import located
from hofflight.replay.plain_columns import exploded
from hofflight.replay.prepared import SEQ
from hofflight.replay.transformed import Transformation
from hofflight.replay.windowed import How, database, windowed
from hofflight.wire.columns import first_value
from hofflight.wire.parity import WORST_MAX, Difference, Parity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hofflight.features.group import FeatureGroup
    from hofflight.features.view import View
    from hofflight.replay.equality import Mask
    from hofflight.replay.read_log import History, Part
    from hofflight.replay.windowed import Database
    from hofflight.settings import ReplaySettings

LATE: Final = "_late"  # the flag beside the features, under a name that no column can have
_RECORDED: Final = "_a_"
_WAS_LATE: Final = "_was_late"
_ABOUT: Final = ("_seq", "_arrival", "_request_id", "_row", "_answered", "_late", "_overflow")
_HOW: Final = How("duckdb", "arrival", tolerances=True)


@dataclass(frozen=True, slots=True)
class Verification:
    """A view's answers, to be compared. `since_us`: only what arrived from then on.

    `sample`: share of the keys that are looked at, always the same ones.
    """

    history: History
    group: FeatureGroup
    view: View
    settings: ReplaySettings
    since_us: int | None = None
    sample: float = 1.0

    def run(self, parity: Parity, progress: Callable[[int], None] = lambda _: None) -> None:
        """Compare, and add to `parity`; `progress` is told how many more rows of the log were read.

        Raises: SealDamaged (HOF-506), LogCorrupt (HOF-502).
        """
        answers = Answers(self.history, self.group)
        how = How("duckdb", sample=self.sample, tolerances=True)
        features = self.view.columns_of((self.group.name, self.group.version))
        with database(self.settings) as db:
            for batch in answers.windowed(db, how, progress):
                ours = self._ours(batch)
                answered = ours.column("_answered")
                parity.unserved += len(ours) - answered.true_count
                self._compare(answers, ours.filter(answered), features, parity)

    def _ours(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows that were sent to this very version, since the moment asked for."""
        chosen = batch.column("_ours")
        if self.since_us is not None:
            arrival = batch.column("_arrival").cast(pa.int64())
            chosen = pc.and_(chosen, pc.greater_equal(arrival, self.since_us))
        return batch.filter(chosen)

    def _compare(
        self, answers: Answers, rows: pa.RecordBatch, features: Sequence[str], parity: Parity
    ) -> None:
        if not rows.num_rows:
            return
        name = self.group.name
        parity.parts[name] = parity.parts.get(name, 0) + rows.num_rows
        parity.late += rows.column(_WAS_LATE).true_count
        replayed = answers.replayed(rows)
        wrong = np.zeros(rows.num_rows, bool)
        for feature in (*features, LATE):
            unequal = ~answers.equal(rows, replayed, feature)
            if not unequal.any():
                continue
            wrong |= unequal
            shown = "late" if feature == LATE else f"{name}.{feature}"
            count = int(np.count_nonzero(unequal))
            parity.by_feature[shown] = parity.by_feature.get(shown, 0) + count
            found = answers.differences(rows, replayed, feature, shown, np.flatnonzero(unequal))
            parity.worst = sorted((*parity.worst, *found), key=lambda d: -d.distance)[:WORST_MAX]
        parity.mismatches += int(np.count_nonzero(wrong))


class Answers:
    """The log's rows of a group, what was answered beside what replay gives."""

    def __init__(self, history: History, group: FeatureGroup) -> None:
        self.history = history
        self.group = group
        self.transformation = Transformation(group)
        question = self.transformation.preparation.question
        self._scales = {window.name for window in question.adds_floats}
        self._sums = question.sums_integers
        types: dict[str, pa.DataType] = {name: ABOUT.field(name).type for name in _ABOUT[1:5]}
        types |= {"_ours": pa.bool_(), _WAS_LATE: pa.bool_()}
        types |= {f"_over_{name}": pa.bool_() for name in self._sums}
        types |= {f"{_RECORDED}{field.name}": field.type for field in group.schema}
        types |= dict(zip(question.schema.names, question.schema.types, strict=True))
        types |= group.transformed
        self._schema = pa.schema(list(types.items()))

    def windowed(
        self,
        db: Database,
        how: How = _HOW,
        progress: Callable[[int], None] = lambda _: None,
        keys: pa.Table | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """All rows, or those of some keys: recorded columns, then what replay gives."""
        question = self.transformation.preparation.question
        rows = self._rows(progress, keys)
        return windowed(db, rows, self._schema, question, how)

    def replayed(self, rows: pa.RecordBatch) -> dict[str, pa.Array]:
        """What replay gives for each column: derived ones from the windows that were served."""
        group = self.group
        served = [rows.column(f"{_RECORDED}{name}") for name in group.schema.names]
        names = [*group.schema.names, SEQ, "_arrival"]
        arrays = [*served, rows.column(SEQ), rows.column("_arrival")]
        derived = self.transformation.derive(pa.RecordBatch.from_arrays(arrays, names=names))
        kept = {name: rows.column(name) for name in (*group.transformed, *group.windows)}
        return {**kept, **derived, LATE: rows.column(LATE)}

    def served(self, rows: pa.RecordBatch, name: str) -> pa.Array:
        """What was answered."""
        return rows.column(_WAS_LATE if name == LATE else f"{_RECORDED}{name}")

    def equal(self, rows: pa.RecordBatch, replayed: dict[str, pa.Array], name: str) -> Mask:
        """Per row, whether a column was served as it is replayed."""
        served, again = self.served(rows, name), replayed[name]
        if name in self._scales:
            function = self.group.windows[name].function
            return close(served, again, rows.column(f"_scale_{name}"), function)
        if name in self._sums:
            flags = same(rows.column(f"_over_{name}"), rows.column(f"_overflow_{name}"))
            return same(served, again) & flags
        return same(served, again)

    def differences(
        self,
        rows: pa.RecordBatch,
        replayed: dict[str, pa.Array],
        name: str,
        shown: str,
        places: Any,
    ) -> list[Difference]:
        """Some of the rows at these places, as a person reads them."""
        found = []
        columns = self.served(rows, name), replayed[name]
        for place in map(int, places[:WORST_MAX]):
            served, again = (first_value(column.slice(place, 1)) for column in columns)
            request_id = rows.column("_request_id")[place].as_py().hex()
            row = rows.column("_row")[place].as_py()
            one = Difference(shown, request_id, row, served, again, _distance(served, again))
            found.append(located(one, self.history, rows.column(SEQ)[place].as_py()))
        return found

    def _rows(
        self, progress: Callable[[int], None], keys: pa.Table | None
    ) -> Iterator[pa.RecordBatch]:
        version = self.group.version
        for part in self.history.parts(about=_ABOUT, answers=version):
            found = self.transformation.apply(self._recorded_rows(part))
            progress(part.rows.num_rows)
            yield (found if keys is None else of_keys(found, keys)).select(self._schema.names)

    def _recorded_rows(self, part: Part) -> pa.RecordBatch:
        """Raw rows with the recorded columns under names of their own; null for other versions."""
        rows, count = part.rows, part.rows.num_rows
        is_ours = part.version == self.group.version
        columns = {name: rows.column(name) for name in _ABOUT[:5]}
        columns["_ours"] = pa.repeat(pa.scalar(is_ours), count)
        columns[_WAS_LATE] = rows.column("_late")
        columns |= {
            f"_over_{name}": _flagged(rows.column("_overflow"), name) for name in self._sums
        }
        names = self.group.schema.names
        if ANSWER in rows.schema.names:
            answers = exploded(rows.column(ANSWER), names)
        else:
            answers = [pa.nulls(count, field.type) for field in self.group.schema]
        columns |= {f"{_RECORDED}{n}": answer for n, answer in zip(names, answers, strict=True)}
        columns |= {name: rows.column(name) for name in self.group.input.names}
        return pa.RecordBatch.from_pydict(columns)


def of_keys(rows: pa.RecordBatch, keys: pa.Table) -> pa.RecordBatch:
    """The rows of some keys; `keys` has the prepared key columns."""
    chosen = pa.repeat(pa.scalar(False), rows.num_rows)
    for place in range(keys.num_rows):
        of_key = pa.repeat(pa.scalar(True), rows.num_rows)
        for name in keys.column_names:
            of_key = pc.and_(of_key, pc.equal(rows.column(name), keys[name][place]))
        chosen = pc.or_(chosen, of_key)
    return rows.filter(chosen)


def _distance(one: object, other: object) -> float:
    numbers = (int, float)
    if isinstance(one, numbers) and isinstance(other, numbers):
        size = max(abs(one), abs(other))
        gap = abs(one - other)
        return gap / size if size and math.isfinite(gap / size) else math.inf
    return math.inf


def _flagged(lists: pa.Array, name: str) -> pa.Array:
    """Per row, whether its list holds a name."""
    flags = np.zeros(len(lists), bool)
    parents = pc.list_parent_indices(lists).to_numpy()
    flags[parents[pc.equal(lists.flatten(), name).to_numpy(zero_copy_only=False)]] = True
    return pa.array(flags)
