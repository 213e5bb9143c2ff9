"""What ended waits before it is started again: longer each time, unless it did well."""

from hofflight.spark_bridge.backoff import Backoff


def test_it_waits_twice_as_long_each_time_up_to_half_a_minute():
    backoff = Backoff()
    assert [backoff.ended(5.0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff.failures == 7


def test_a_minute_of_life_makes_the_next_end_the_first():
    backoff = Backoff(0.5)
    assert [backoff.ended(lived_s) for lived_s in (1.0, 60.0, 60.1, 0.0)] == [0.5, 1, 0.5, 1]


def test_it_goes_on_for_ever():
    backoff = Backoff()
    assert {backoff.ended(0.0) for _ in range(2_000)} == {1, 2, 4, 8, 16, 30}
