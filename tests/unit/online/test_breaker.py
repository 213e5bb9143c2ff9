"""When a store that failed is asked again; the clock is a number."""

import pytest

from hofflight.online.breaker import Breaker


@pytest.fixture
def breaker():
    return Breaker(pause_s=0.25)


def test_all_calls_go_out_as_long_as_none_failed(breaker):
    """At the same moment too: nobody waits for the outcome of another."""
    assert [breaker.admits(now) for now in (0.0, 0.0, 7.0)] == [True, True, True]
    breaker.succeeded()
    assert breaker.admits(7.0)


def test_after_a_failure_none_goes_out_until_the_pause_is_over(breaker):
    """The pause begins with the failure, not with the call."""
    assert breaker.admits(9.0)
    breaker.failed(10.0)

    assert [breaker.admits(now) for now in (10.0, 10.1, 10.249)] == [False] * 3
    assert breaker.admits(10.25)


def test_after_the_pause_one_call_probes_and_the_others_wait_for_it(breaker):
    breaker.failed(10.0)

    assert [breaker.admits(now) for now in (11.0, 11.0, 11.2)] == [True, False, False]


def test_a_probe_that_succeeds_lets_all_out(breaker):
    breaker.failed(10.0)
    assert breaker.admits(11.0)
    breaker.succeeded()

    assert [breaker.admits(11.01), breaker.admits(11.01)] == [True, True]


def test_a_probe_that_fails_begins_another_pause(breaker):
    breaker.failed(10.0)
    assert breaker.admits(11.0)
    breaker.failed(11.02)

    assert [breaker.admits(11.26), breaker.admits(11.27)] == [False, True]


def test_a_probe_that_never_tells_holds_the_others_back_for_one_pause(breaker):
    """Its caller may have gone away, and that says nothing about the store."""
    breaker.failed(10.0)
    assert breaker.admits(11.0)

    assert [breaker.admits(11.24), breaker.admits(11.25), breaker.admits(11.25)] == [
        False,
        True,
        False,
    ]


def test_failures_that_were_under_way_together_are_one_pause(breaker):
    """It ends after the last of them."""
    for now in (10.0, 10.02, 10.01):
        breaker.failed(now)

    assert [breaker.admits(10.259), breaker.admits(10.27)] == [False, True]
