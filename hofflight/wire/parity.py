"""What `verify` found: how many rows are equal, which are not, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from hofflight.errors import NotEqual

WORST_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """A feature of one row that was served otherwise than replay has it.

    `distance`: relative difference of numbers, else infinite.
    """

    feature: str
    request_id: str
    row: int
    served: Any
    replayed: Any
    distance: float

    def __str__(self) -> str:
        where = f"request {self.request_id} row {self.row}"
        return f"{where}: {self.feature} was served as {self.served!r}, replay: {self.replayed!r}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """One row of a request: every feature of the group, and the events in each window.

    features: name -> served, replayed, equal. windows: name -> its declaration and its events, by
    (event time, arrival), each with `seq`, `ts` and the value that the window reads.
    """

    request_id: str
    row: int
    seq: int
    late: bool
    features: dict[str, dict[str, Any]]
    windows: dict[str, dict[str, Any]]


@dataclass(slots=True)
class Parity:
    """Served against replayed, over the answer records of a view.

    rows: answers compared. mismatches: rows with any difference. unserved: rows of the log without
    an answer (DoPut, `ingest`), which there is nothing to compare with. late: compared rows that
    came too late. by_feature: differences of each feature that has any. worst: some of the largest.

    Of a view of several groups, rows are those of the first; parts: how many answers of each group
    were compared, stored ones included; mismatches: over all parts. unavailable: lookups that the
    online store did not answer, so that there is nothing to compare.
    """

    view: str
    version: int
    code_hash: str
    rows: int = 0
    mismatches: int = 0
    unserved: int = 0
    late: int = 0
    by_feature: dict[str, int] = field(default_factory=dict)
    worst: list[Difference] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)
    unavailable: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    explainer: Callable[[bytes | str], list[Explanation]] | None = field(
        default=None, repr=False, compare=False
    )

    def explain(self, request_id: bytes | str) -> list[Explanation]:
        """The rows of a request, their features both ways, and the events in their windows.

        `request_id`: 16 bytes, or their hex digits, as `worst` has them.
        Raises: UnknownView (HOF-201), no such request was answered under the view's group.
        """
        assert self.explainer is not None
        return self.explainer(request_id)

    def assert_equal(self) -> None:
        """Nothing, if every row that was served is what replay gives.

        Raises: NotEqual (HOF-700), an AssertionError too.
        """
        if self.mismatches:
            shown = "\n".join(f"  {difference}" for difference in self.worst[:5])
            msg = f"{self.mismatches} of {self.rows} rows of {self.view} differ:\n{shown}"
            hint = "parity.explain(request_id) shows the events in each window"
            raise NotEqual(msg, hint=hint)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the explainer, as plain values."""
        plain = {
            name: getattr(self, name)
            for name in ("view", "version", "code_hash", "rows", "mismatches", "unserved", "late",
                         "by_feature", "parts", "unavailable", "notes", "seconds")
        }  # fmt: skip
        return {**plain, "worst": [asdict(difference) for difference in self.worst]}

    @classmethod
    def from_dict(
        cls,
        plain: dict[str, Any],
        explainer: Callable[[bytes | str], list[Explanation]] | None = None,
    ) -> Parity:
        """What `to_dict` gave, as it comes back from JSON."""
        known = {name: plain[name] for name in plain if name in cls.__slots__}
        worst = [Difference(**difference) for difference in plain["worst"]]
        return cls(**{**known, "worst": worst, "explainer": explainer})
