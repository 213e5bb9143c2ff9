"""Retries on a clock that only the test moves."""

import random

import pytest

from hofflight.client.retry import BACKOFF_S_MAX, STUBBORN_TRIES, pause_s, persist
from hofflight.errors import (
    AnsweredTooLate,
    ConnectionLost,
    Draining,
    IdReused,
    InternalError,
    NoAnswer,
    Overloaded,
    StorageFailed,
    TransformFailed,
    TransformTimeout,
    Wedged,
)


class FixedChance:
    def __init__(self, number=0.0):
        self.number = number

    def random(self):
        return self.number


class Attempts:
    """An attempt that takes no time and ends as told; errors last, or a value."""

    def __init__(self, *ends):
        self.ends = list(ends)
        self.left = []

    def __call__(self, left_s):
        self.left.append(left_s)
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        if isinstance(end, Exception):
            raise end
        return end
        yield


def play(attempts, deadline_s=10.0, rng=None, is_over=lambda: False):
    """The steps, driven by a clock that jumps over every pause; gives the value and the pauses."""
    now, pauses = 0.0, []
    steps = persist(
        attempts, deadline_s=deadline_s, clock=lambda: now, rng=rng or FixedChance(),
        is_over=is_over,
    )  # fmt: skip
    while True:
        try:
            wait = next(steps)
        except StopIteration as done:
            return done.value, pauses
        assert wait.future is None
        now += wait.seconds
        pauses.append(wait.seconds)


def test_success_is_not_repeated():
    attempts = Attempts("value")

    assert play(attempts) == ("value", [])
    assert attempts.left == [10.0]


@pytest.mark.parametrize("error", [Overloaded, Draining, ConnectionLost, TransformTimeout])
def test_refused_and_indefinite_errors_are_asked_again(error):
    assert play(Attempts(error("x"), error("x"), "value"))[0] == "value"


@pytest.mark.parametrize("error", [TransformFailed, IdReused, InternalError])
def test_definite_errors_are_final(error):
    attempts = Attempts(error("x"))
    with pytest.raises(error):
        play(attempts)

    assert len(attempts.left) == 1


def test_the_server_says_how_long_to_wait_at_least():
    assert play(Attempts(Overloaded("x", retry_after_ms=700), "v"))[1] == [0.7]


def test_pauses_double_up_to_a_bound():
    _, pauses = play(Attempts(*[ConnectionLost("x")] * 8, "v"))

    assert pauses[:4] == [0.02, 0.04, 0.08, 0.16]
    assert max(pauses) == BACKOFF_S_MAX


def test_chance_makes_a_pause_longer_by_half_at_most_and_never_shorter():
    rng = random.Random(4)
    pauses = [pause_s(ConnectionLost("x"), 1, 10, rng) for _ in range(1_000)]

    assert 0.02 <= min(pauses) < 0.0205
    assert 0.0295 < max(pauses) <= 0.03


def test_no_pause_outlasts_the_deadline():
    attempts = Attempts(Overloaded("x", retry_after_ms=400))
    with pytest.raises(Overloaded):
        play(attempts, deadline_s=1.0)

    assert attempts.left == pytest.approx([1.0, 0.6, 0.2])


def test_each_attempt_learns_what_is_left():
    attempts = Attempts(Overloaded("x", retry_after_ms=1_000), "v")
    play(attempts)

    assert attempts.left == [10.0, 9.0]


@pytest.mark.parametrize("error", [Wedged, StorageFailed])
def test_what_seldom_mends_itself_is_asked_a_few_times_only(error):
    attempts = Attempts(error("x"))
    with pytest.raises(error):
        play(attempts, deadline_s=3_600)

    assert len(attempts.left) == STUBBORN_TRIES


@pytest.mark.parametrize("last", [Overloaded("x"), Wedged("x"), InternalError("x")])
def test_a_refusal_after_an_unknown_outcome_does_not_claim_that_nothing_was_counted(last):
    with pytest.raises(ConnectionLost) as caught:
        play(Attempts(ConnectionLost("x"), last), deadline_s=1)

    assert type(caught.value.__cause__) is type(last)


@pytest.mark.parametrize("last", [TransformFailed("x"), AnsweredTooLate("x"), NoAnswer("x")])
def test_a_later_word_on_the_outcome_is_the_last(last):
    with pytest.raises(type(last)):
        play(Attempts(ConnectionLost("x"), last), deadline_s=0.05)


def test_an_answer_that_did_not_come_says_what_came_before():
    with pytest.raises(NoAnswer) as caught:
        play(Attempts(Overloaded("full"), NoAnswer("x")), deadline_s=0.05)

    assert str(caught.value.__cause__) == "HOF-301: full"


def test_a_try_without_time_to_be_answered_is_not_begun():
    assert pause_s(ConnectionLost("x"), 1, 0.039, FixedChance()) is None
    assert pause_s(ConnectionLost("x"), 1, 0.041, FixedChance()) == 0.02


def test_a_closed_client_asks_no_more():
    attempts = Attempts(ConnectionLost("x"))
    with pytest.raises(ConnectionLost):
        play(attempts, is_over=lambda: True)

    assert len(attempts.left) == 1
