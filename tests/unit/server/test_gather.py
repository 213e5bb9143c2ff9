"""One answer out of several partitions' answers: the same as if one had answered."""

import dataclasses
import itertools

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hofflight as hof
from hofflight.engine.kafka_partition import PartitionWorker
from hofflight.engine.views import single_view
from hofflight.errors import (
    BadEventTime,
    DeadlinePassed,
    HofError,
    Indefinite,
    InternalError,
    NoAnswer,
    NotReady,
    NullKey,
    TransformFailed,
    Wedged,
)
from hofflight.eventlog.protocol import Answer
from hofflight.features.view import implicit_view
from hofflight.server.gather import gathered
from hofflight.server.pending import Gathering
from hofflight.server.routes import Route
from hofflight.wire.envelope import AnswerMeta
from hofflight.wire.ipc import join_message
from tests.unit.engine.conftest import make_group
from tests.unit.kafka_engines import Engines, answers_of, meaning_of, record_of, request_of
from tests.unit.kafka_fakes import FakeClock

PARTITIONS = 3
WINDOWS = {"n": hof.count().over("1h"), "total": hof.sum("x").over("1h")}
GROUP = make_group(late="2m", windows=WINDOWS)
HUGE = (1 << 62) + 5  # two of them in a window leave int64


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """An engine for all rows, and one for each partition; ids that nobody had before."""
    engines = Engines(tmp_path_factory.mktemp("gather"), FakeClock())
    engines.register(GROUP)
    engines.view("narrow", ["g.total", "g.card"], GROUP)
    whole = engines.open(GROUP, store="whole")
    workers = [
        PartitionWorker(n, engines.open(GROUP, store=str(n)), {"g.1": PARTITIONS}, 1 << 20)
        for n in range(PARTITIONS)
    ]
    yield whole, workers, itertools.count(1)
    engines.close()


rows = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 400), st.sampled_from([1, 5, HUGE, None])),
    min_size=1, max_size=12,
)  # fmt: skip


@given(histories=st.lists(rows, min_size=1, max_size=3), view=st.sampled_from(["g", "narrow"]))
def test_what_was_split_is_answered_as_what_was_not(sides, histories, view):
    """Values, late lists, statuses and errors, whatever the rows: as one engine answers them."""
    whole, workers, numbers = sides
    served = spread(whole.bind(view, None))
    for given_rows in histories:
        number = next(numbers)
        # Keys and times that no earlier example saw.
        fresh = [(c + 8 * number, s, x) for c, s, x in given_rows]
        expected = []
        request = request_of(served, *fresh, number=number, reply=expected.append)
        whole.submit([request])
        parts = Route("t", served).parts_of(request)
        if len(parts) == 1:
            continue
        gathering = Gathering([part.places for part in parts])
        for place, part in enumerate(parts):
            batch = pa.ipc.read_record_batch(
                pa.py_buffer(join_message(part.head, part.body)), served.input_schema
            )
            record = record_of((number, batch), view=view, arrival_us=1)
            workers[part.partition].work("g.1", number, record, keep(gathering, place))
        answer = gathered(request, gathering)

        assert meaning_of(answer) == meaning_of(expected[0])


def spread(served):
    return dataclasses.replace(served, partition_key=("card",), partitions=PARTITIONS)


def keep(gathering, place):
    def done(answers, refused):
        assert refused == ""
        (answer,) = answers_of(answers).values()
        gathering.add(place, Answer(answer.meta, answer.head, answer.body))

    return done


# --- errors of parts ------------------------------------------------------------------------------


def outcome_of(*outcomes):
    """What becomes of a request whose parts got these, each an error or a code."""
    served = spread(engine_served())
    request = request_of(served, *((card, 0) for card in range(len(outcomes))))
    gathering = Gathering([[i] for i in range(len(outcomes))])
    for place, outcome in enumerate(outcomes):
        is_error = isinstance(outcome, HofError)
        meta = AnswerMeta(outcome if isinstance(outcome, str) else "OK", error="why")
        gathering.add(place, outcome if is_error else Answer(meta, b"", b""))
    return gathered(request, gathering)


def engine_served():
    return single_view(implicit_view(GROUP), [GROUP])


@pytest.mark.parametrize(
    "outcomes",
    [
        (NullKey("a"), NullKey("b")),
        ("HOF-206", "HOF-206"),
        ("HOF-209", TransformFailed("b")),
        (NotReady("a"), NotReady("b")),
    ],
)
def test_a_refusal_of_every_part_is_the_requests_own(outcomes):
    """Nothing counted: the error is as definite as if it had come alone."""
    found = outcome_of(*outcomes)
    code = outcomes[0] if isinstance(outcomes[0], str) else outcomes[0].code
    assert found.code == code
    assert not isinstance(found, Indefinite)


@pytest.mark.parametrize("error", ["HOF-206", BadEventTime("x"), NotReady("x"), InternalError("x")])
@pytest.mark.parametrize("place", [0, 1])
def test_a_refused_part_beside_a_counted_one_is_indefinite(error, place):
    """Nobody may say that nothing was counted."""
    outcomes = ["OK", "OK"]
    outcomes[place] = error
    assert isinstance(outcome_of(*outcomes), Indefinite)


@pytest.mark.parametrize(
    "outcomes",
    [
        (NoAnswer("x"), "OK"),
        ("HOF-402", NullKey("x")),
        (NotReady("x"), Indefinite("x")),
        (NotReady("x"), DeadlinePassed("y")),
        (Wedged("x"), NullKey("x"), "OK"),
    ],
)
def test_an_indefinite_part_makes_the_request_indefinite(outcomes):
    """In whatever company; two different refusals as well."""
    assert isinstance(outcome_of(*outcomes), Indefinite)


def test_a_part_whose_rows_do_not_decode_is_an_error_of_its_request():
    """A worker's answer is a stranger's bytes too: the request ends, and nothing else does."""
    served = spread(engine_served())
    request = request_of(served, (1, 0), (2, 0))
    for head, body in ((b"", b""), (b"x" * 16, b""), (request.head, request.body)):
        gathering = Gathering([[0], [1]])
        gathering.add(0, Answer(AnswerMeta("OK"), head, body))
        gathering.add(1, Answer(AnswerMeta("OK"), head, body))
        try:
            found = gathered(request, gathering)
        except HofError as error:
            found = error
        assert isinstance(found, HofError)
