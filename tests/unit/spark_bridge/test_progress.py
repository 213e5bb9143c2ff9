"""How far an application is: its marks beside where its topics end, asked for now and then."""

import threading
import time

import pytest

from hofflight.errors import KafkaUnavailable
from hofflight.spark_bridge.executor_side import Place
from hofflight.spark_bridge.progress import Meter, Progress
from hofflight.spark_bridge.state_store import Mark
from tests.unit.kafka_fakes import FakeClock

PLACES = [Place("g.1", number, "hof") for number in range(3)]
P0, P1, P2 = PLACES
TOPIC = "hof.in.g.1"


class Bench:
    """A meter, the brokers that it asks, and logs that somebody writes."""

    def __init__(self, directory, **options):
        self.directory = directory
        self.clock = FakeClock()
        self.bounds = {(TOPIC, place.number): (0, 0) for place in PLACES}
        self.asked = []
        self.error = None
        self.answer = threading.Event()
        self.answer.set()
        self.meter = Meter(self.log, self._ask, self.clock, **options)

    def log(self, place):
        return self.directory / str(place.number)

    def _ask(self, wanted):
        self.asked.append(wanted)
        assert self.answer.wait(20)
        if self.error is not None:
            raise self.error
        return {place: self.bounds[place] for place in wanted if place in self.bounds}

    def work(self, place, following, rows=0):
        """Records up to an offset are dealt with, all its starts together."""
        self.log(place).mkdir(exist_ok=True)
        mark = Mark(self.log(place) / "mark")
        mark.begin(following - 1, following - 1)
        mark.finish(0, rows)
        mark.close()

    def read(self, *places, restarts=0):
        return self.meter.read(places or PLACES, restarts)

    def settled(self, *places):
        """What it reads once the brokers have said what they were asked."""
        self.read(*places)
        end_s = time.monotonic() + 20
        while self.meter._asked is not None and not self.meter._asked.done():
            assert time.monotonic() < end_s
            time.sleep(0.001)
        return self.read(*places)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.answer.set()
    bench.meter.close()


def test_an_application_that_has_nothing_yet(bench):
    """As long as the brokers did not say, nobody knows how much there is to do."""
    bench.answer.clear()
    assert bench.read(restarts=3) == Progress(3, 0, 0, None, 3, 0)
    assert bench.read() == Progress(3, 0, 0, None, 0, 0)


def test_records_and_rows_are_those_of_all_marks(bench):
    bench.work(P0, 10, rows=25)
    bench.work(P0, 12, rows=5)
    bench.work(P2, 100, rows=1)
    found = bench.settled()
    assert (found.partitions, found.records, found.rows) == (3, 112, 31)
    found = bench.read(P2)
    assert (found.partitions, found.records, found.rows) == (1, 100, 1)


@pytest.mark.parametrize(
    ("begin", "end", "done", "lag"),
    [
        (0, 100, 0, 100),
        (0, 100, 60, 40),
        (0, 100, 100, 0),
        (70, 100, 60, 30),  # what was deleted there is not to be worked
        (70, 100, 80, 20),
        (100, 100, 60, 0),
        (0, 100, 120, 0),  # it was worked since they were asked
        (0, 0, 0, 0),
    ],
)
def test_lag_is_what_the_topic_still_has(bench, begin, end, done, lag):
    bench.bounds[TOPIC, 1] = (begin, end)
    if done:
        bench.work(P1, done)
    assert bench.settled(P1).lag == lag


def test_lag_is_that_of_all_partitions_together(bench):
    bench.bounds = {(TOPIC, 0): (0, 10), (TOPIC, 1): (0, 200), (TOPIC, 2): (0, 3_000)}
    bench.work(P1, 50)
    assert bench.settled().lag == 10 + 150 + 3_000


def test_of_a_partition_that_came_just_now_the_lag_is_not_known(bench):
    """A part would be read as the whole; the next answer has it."""
    bench.bounds[TOPIC, 0] = (0, 10)
    assert bench.settled(P0).lag == 10
    assert bench.read(P0, P1).lag is None
    assert bench.read(P0).lag == 10
    bench.clock.advance(5)
    assert bench.settled(P0, P1).lag == 10


def test_brokers_are_asked_every_five_seconds(bench):
    """However often it is read; marks are read each time."""
    bench.bounds[TOPIC, 0] = (0, 100)
    assert bench.settled(P0).lag == 100
    bench.bounds[TOPIC, 0] = (0, 150)
    for _ in range(10):
        assert bench.settled(P0).lag == 100
    bench.work(P0, 30)
    bench.clock.advance(4.9)
    assert bench.settled(P0).lag == 70
    assert bench.asked == [[(TOPIC, 0)]]
    bench.clock.advance(0.1)
    assert bench.settled(P0).lag == 120
    assert bench.asked == [[(TOPIC, 0)]] * 2


def test_where_nobody_watches_brokers_are_asked_as_seldom_as_is_said(tmp_path):
    """A line a minute in the log needs no answer every five seconds."""
    bench = Bench(tmp_path, period_s=60)
    try:
        for number in range(1, 4):
            for _ in range(5):
                bench.settled(P0)
                bench.clock.advance(11.9)
            assert len(bench.asked) == number
            bench.clock.advance(0.5)
    finally:
        bench.meter.close()


def test_brokers_that_are_away_are_asked_again(bench):
    """Meanwhile nobody knows: an old answer would say that it comes nearer to the end."""
    bench.bounds[TOPIC, 0] = (0, 100)
    assert bench.settled(P0).lag == 100
    bench.error = KafkaUnavailable("no broker")
    bench.clock.advance(5)
    assert bench.settled(P0).lag is None
    bench.clock.advance(5)
    assert bench.settled(P0).lag is None
    bench.error = None
    bench.clock.advance(5)
    assert bench.settled(P0).lag == 100
    assert len(bench.asked) == 4


def test_brokers_that_do_not_answer_hold_nobody_up(bench):
    """Nor are they asked once more meanwhile."""
    bench.answer.clear()
    for _ in range(5):
        bench.clock.advance(60)
        assert bench.read().lag is None
    bench.answer.set()
    assert bench.settled().lag == 0
    assert len(bench.asked) <= 2


def test_without_partitions_nobody_is_asked(bench):
    """Others have all of them."""
    for _ in range(3):
        bench.clock.advance(60)
        assert bench.meter.read([], 0) == Progress(0, 0, 0, 0, 0, 0)
    assert bench.asked == []


def test_state_is_what_the_logs_take_of_their_disks(bench):
    """In blocks: a file that is nearly empty has few."""
    bench.work(P0, 1)
    before = bench.read(P0).state_bytes
    (bench.log(P0) / "1.log").write_bytes(b"x" * 100_000)
    with (bench.log(P0) / "2.log").open("wb") as file:
        file.truncate(1 << 30)
    assert 100_000 <= bench.read(P0).state_bytes - before < 200_000
    assert bench.read().state_bytes == bench.read(P0).state_bytes


def test_a_segment_that_is_trimmed_while_it_is_measured_counts_nothing(bench):
    """By a Python worker, in another process."""
    bench.work(P0, 1)
    before = bench.read(P0).state_bytes
    (bench.log(P0) / "1.log").symlink_to(bench.log(P0) / "gone")  # listed, and then not there
    assert bench.read(P0).state_bytes == before
