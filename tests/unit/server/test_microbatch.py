import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight.server.microbatch import MicroBatcher


class Loop:
    """A loop that runs what was called soon when told to."""

    def __init__(self):
        self.soon = []

    def call_soon(self, function):
        self.soon.append(function)

    def turn(self):
        ready, self.soon = self.soon, []
        for function in ready:
            function()


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def handed_over():
    return []


@pytest.fixture
def batcher(loop, handed_over):
    return MicroBatcher(lambda requests: handed_over.append(list(requests)), loop.call_soon)


def test_requests_of_one_pass_go_together_in_order(batcher, loop, handed_over):
    for request in "abc":
        batcher.put(request, alone=False)
    assert handed_over == []

    loop.turn()

    assert handed_over == [["a", "b", "c"]]


def test_the_only_stream_waits_for_nobody(batcher, loop, handed_over):
    batcher.put("a", alone=True)

    assert handed_over == [["a"]]
    assert loop.soon == []


def test_a_request_does_not_overtake_those_that_wait(batcher, loop, handed_over):
    batcher.put("a", alone=False)
    batcher.put("b", alone=True)
    assert handed_over == []

    loop.turn()

    assert handed_over == [["a", "b"]]


def test_what_comes_while_a_flush_runs_is_the_next_flush(loop):
    seen = []

    def submit(requests):
        seen.append(list(requests))
        if requests == ["a"]:
            batcher.put("b", alone=False)

    batcher = MicroBatcher(submit, loop.call_soon)
    batcher.put("a", alone=False)
    loop.turn()
    assert seen == [["a"]]

    loop.turn()

    assert seen == [["a"], ["b"]]


@given(st.lists(st.sampled_from(["put", "alone", "turn"]), max_size=60))
def test_every_request_is_handed_over_once_and_in_order(steps):
    loop, seen = Loop(), []
    batcher = MicroBatcher(seen.extend, loop.call_soon)
    for number, step in enumerate(steps):
        if step == "turn":
            loop.turn()
        else:
            batcher.put(number, alone=step == "alone")
        assert len(loop.soon) <= 1
    loop.turn()

    assert seen == [number for number, step in enumerate(steps) if step != "turn"]
