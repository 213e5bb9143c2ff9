"""Queries of partitions, kept running: what ends starts again, until it is no use."""

import pytest

from hofflight.errors import WorkerStopped
from hofflight.spark_bridge.application import Application, reason_of
from hofflight.spark_bridge.executor_side import Place
from tests.unit.kafka_fakes import FakeClock

PLACES = [Place("g.1", number, "hof") for number in range(3)]


class FakeQuery:
    """A query as Spark has them; ends when the test says so."""

    def __init__(self, place):
        self.place = place
        self.isActive = True
        self.error = None
        self.is_stopped = False

    def exception(self):
        return self.error

    def end(self, error=None):
        self.isActive, self.error = False, error

    def stop(self):
        self.is_stopped = True


class Bench:
    def __init__(self, *places, give_up=None):
        self.clock = FakeClock()
        self.started = []
        self.refusal = None
        self.application = Application(places or PLACES, self.start, self.clock, give_up)

    def start(self, place):
        if self.refusal is not None:
            raise self.refusal
        self.started.append(FakeQuery(place))
        return self.started[-1]

    def look(self, seconds=0.25):
        self.clock.advance(seconds)
        self.application.look()

    def end(self, error="died"):
        self.started[-1].end(error)
        self.look(0)


def test_a_query_for_each_partition():
    bench = Bench()
    bench.application.start()
    for _ in range(100):
        bench.look()
    assert [query.place for query in bench.started] == PLACES
    assert bench.application.restarts == 0


def test_what_ended_is_started_again_and_no_other():
    bench = Bench()
    bench.application.start()
    bench.started[1].end("a worker died")
    bench.look()
    assert len(bench.started) == 3
    bench.look(1.0)
    assert [query.place for query in bench.started[3:]] == [PLACES[1]]
    assert bench.application.restarts == 1
    bench.look(10)
    assert len(bench.started) == 4


def test_a_query_that_ends_again_and_again_waits_longer_and_longer():
    """Nothing is gained by a hundred tries a second."""
    bench = Bench(PLACES[0])
    bench.application.start()
    waits = []
    for _ in range(9):
        bench.end()
        before = bench.clock.now_s
        tries = len(bench.started)
        while len(bench.started) == tries:
            bench.look(0.25)
        waits.append(bench.clock.now_s - before)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30, 30]


def test_a_query_that_never_gets_better_is_said():
    """Its last error is part of it; whoever started the process decides."""
    bench = Bench(PLACES[2])
    bench.application.start()
    for _ in range(9):
        bench.end()
        bench.look(60)
    with pytest.raises(WorkerStopped, match=r"HOF-514.*hof.in.g.1/2 ended 10 times: HOF-502: bad"):
        bench.end("HOF-502: bad")


def test_what_never_gets_better_is_given_up_where_another_one_may_do_better():
    """It is gone then, and the others go on: nothing ends."""
    given = []

    def give_up(place, why):
        given.append((place, why, bench.started[-1].is_stopped))

    bench = Bench(*PLACES[:2], give_up=give_up)
    bench.application.start()
    for number in range(1, 11):
        assert given == []
        bench.end(f"death {number}")
        bench.look(60)
    assert given == [(PLACES[1], "the query of hof.in.g.1/1 ended 10 times: death 10", True)]
    assert not bench.started[0].is_stopped
    bench.look(600)
    assert len(bench.started) == 11
    assert bench.application.restarts == 9
    bench.application.stop()
    assert bench.started[0].is_stopped


def test_a_partition_that_was_given_up_may_come_again():
    """Its next ten failures are others."""
    given = []
    bench = Bench(PLACES[0], give_up=lambda place, _: given.append(place))
    bench.application.start()
    for _ in range(2):
        for _ in range(10):
            bench.end()
            bench.look(60)
        bench.application.add(PLACES[0])
        bench.look(0)
    assert given == [PLACES[0]] * 2
    assert len(bench.started) == 21


def test_failures_between_which_it_ran_well_are_each_the_first():
    """A minute is well."""
    bench = Bench(PLACES[0])
    bench.application.start()
    for _ in range(40):
        bench.look(61)
        bench.end()
        bench.look(1)
    assert bench.application.restarts == 40


def test_the_ends_of_one_query_are_not_anothers():
    bench = Bench()
    bench.application.start()
    for _ in range(3):
        for query in bench.started[-3:]:
            query.end("died")
        bench.look(0)
        bench.look(60)
    assert bench.application.restarts == 9


def test_what_does_not_start_again_ends_it():
    """As when the JVM is gone."""
    bench = Bench()
    bench.application.start()
    bench.started[0].end()
    bench.look()
    bench.refusal = ConnectionError("the JVM is gone")
    with pytest.raises(ConnectionError):
        bench.look(1)


def test_stop_ends_what_runs():
    bench = Bench()
    bench.application.start()
    bench.started[0].end()
    bench.look()
    bench.application.stop()
    assert [query.is_stopped for query in bench.started] == [False, True, True]


# --- partitions that come and go ------------------------------------------------------------------


def test_a_partition_that_comes_is_started_by_the_next_look_and_kept_running():
    """It is no restart."""
    bench = Bench(PLACES[0])
    bench.application.start()
    bench.application.add(PLACES[1])
    assert [query.place for query in bench.started] == PLACES[:1]
    bench.look(0)
    assert [query.place for query in bench.started] == PLACES[:2]
    assert bench.application.restarts == 0
    bench.end()
    bench.look(1)
    assert [query.place for query in bench.started] == [*PLACES[:2], PLACES[1]]
    assert bench.application.restarts == 1
    bench.application.stop()
    assert [query.is_stopped for query in bench.started] == [True, False, True]


def test_one_may_come_where_there_is_none():
    """Who steps in for others may begin without any."""
    bench = Bench()
    bench.application = Application([], bench.start, bench.clock)
    bench.application.start()
    bench.look(60)
    bench.application.add(PLACES[2])
    bench.look()
    assert [query.place for query in bench.started] == [PLACES[2]]


def test_a_partition_that_comes_and_does_not_start_is_said_by_the_look():
    """Not to whoever took it, who would take it for what cannot be taken."""
    bench = Bench(PLACES[0])
    bench.application.start()
    bench.refusal = ConnectionError("the JVM is gone")
    bench.application.add(PLACES[1])
    with pytest.raises(ConnectionError):
        bench.look()


def test_a_partition_that_goes_before_it_was_started_is_not_started():
    bench = Bench(PLACES[0])
    bench.application.start()
    bench.application.add(PLACES[1])
    bench.application.remove(PLACES[1])
    bench.look(60)
    assert [query.place for query in bench.started] == PLACES[:1]


def test_a_partition_that_goes_is_stopped_and_not_started_again():
    bench = Bench()
    bench.application.start()
    bench.application.remove(PLACES[1])
    assert [query.is_stopped for query in bench.started] == [False, True, False]
    bench.started[1].end("it was stopped")
    for _ in range(100):
        bench.look(1)
    assert len(bench.started) == 3
    assert bench.application.restarts == 0


def test_a_partition_that_goes_while_it_waits_is_not_started_again():
    """It died, and another application took it meanwhile."""
    bench = Bench()
    bench.application.start()
    bench.started[2].end()
    bench.look()
    bench.application.remove(PLACES[2])
    bench.look(60)
    assert len(bench.started) == 3
    assert not bench.started[2].is_stopped


def test_a_partition_that_is_not_ours_goes_without_a_word():
    bench = Bench(PLACES[0])
    bench.application.start()
    bench.application.remove(PLACES[1])
    assert [query.is_stopped for query in bench.started] == [False]


def test_a_partition_that_comes_back_begins_with_a_clean_slate():
    """How often it ended before is not held against it."""
    bench = Bench(PLACES[0])
    bench.application.start()
    for _ in range(9):
        bench.end()
        bench.look(60)
    bench.application.remove(PLACES[0])
    bench.application.add(PLACES[0])
    bench.look(0)
    bench.end()
    tries = len(bench.started)
    bench.look(1)
    assert len(bench.started) == tries + 1


# --- what is said ---------------------------------------------------------------------------------


TRACE = """[STREAM_FAILED] Query terminated with exception: Job aborted
Traceback (most recent call last):
  File "worker.py", line 1, in main
hofflight.errors.StoreLocked: HOF-501: another task works the log g.1
hofflight.errors.WorkerStopped: HOF-514: record 3 could not be counted: HOF-304
\tat org.apache.spark.Foo
"""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TRACE, "hofflight.errors.WorkerStopped: HOF-514: record 3 could not be counted: HOF-304"),
        ("\n  Job aborted\n\tat org.apache", "Job aborted"),
        ("x" * 5_000, "x" * 2_000),
        ("", "it ended"),
        (None, "it ended"),
    ],
)
def test_of_an_exception_a_person_gets_what_says_most(error, expected):
    assert reason_of(error) == expected
