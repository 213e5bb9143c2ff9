"""What a server looked up for a request, as the answer of its group takes it: at the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hofflight.errors import BadRequest, HofError
from hofflight.eventlog.joins import Beside, unpack_rows
from hofflight.server.join_log import require_same_keys
from hofflight.server.join_plan import JoinPlan

if TYPE_CHECKING:
    from hofflight.eventlog.joins import JoinRecord
    from hofflight.eventlog.protocol import Request, Served


class ReceivedJoins:
    """Implements `engine.kafka_partition.BesideOf`. Thread: any, one at a time."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, int], JoinPlan] = {}

    def __call__(self, served: Served, request_id: bytes, joined: bytes) -> Beside:
        """Stored columns, statuses and ages out of what was found for each row.

        Raises: MalformedBatch (HOF-203), BadRequest (HOF-200), it is something else.
        """
        key = (served.view, served.version)
        plan = self._plans.get(key)
        if plan is None or plan.served is not served:
            plan = self._plans[key] = JoinPlan(served)
        return _beside(plan, unpack_rows(joined, len(served.stored)))


def _beside(plan: JoinPlan, records: list[JoinRecord]) -> Beside:
    def recall(request: Request, recorded: list[JoinRecord]) -> Beside:
        """What was recorded for this id; under another view nothing was."""
        if not recorded:
            return _beside(plan, records)
        require_same_keys(request.id, recorded, [record.keys for record in records])
        return _beside(plan, recorded)

    try:
        part = plan.stored_part(records)
    except HofError:
        raise
    except Exception as error:
        msg = f"what was looked up does not decode: {type(error).__name__}"
        raise BadRequest(msg) from error
    return Beside(part.values, part.status, part.age_ms, records, recall)
