"""A thread that is interrupted by another at a line of our choosing, instead of by luck."""

import sys
import threading
from contextlib import contextmanager

# Longer than what the other thread does; where a lock holds it up, it comes in between no more.
PATIENCE_S = 1.0


def lines_of(function):
    """At how many places it can be interrupted, at least: once before each of its lines."""
    return range(len({line for *_, line in function.__code__.co_lines() if line is not None}))


@contextmanager
def interrupted(function, at, other):
    """Run `other` in a thread of its own before the `at`-th line that `function` comes to."""
    come, threads = 0, []

    def line(frame, event, _):
        nonlocal come
        if event == "line":
            if come == at:
                threads.append(threading.Thread(target=other))
                threads[0].start()
                threads[0].join(PATIENCE_S)
            come += 1
        return line

    def call(frame, event, _):
        return line if frame.f_code is function.__code__ and not threads else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)
        for thread in threads:
            thread.join()
