import asyncio
import threading

from hofflight.eventlog.protocol import Answer
from hofflight.server.replies import Replies
from hofflight.wire.envelope import AnswerMeta


def answer(code="OK"):
    return Answer(AnswerMeta(code), b"", b"")


def on_loop(scenario):
    """Run `scenario(Replies())` on a loop of its own."""

    async def run():
        return await asyncio.wait_for(scenario(Replies()), 5)

    return asyncio.run(run())


def test_an_answer_that_came_first_is_there_without_a_turn_of_the_loop():
    async def scenario(replies):
        reply = replies.expect()
        reply(answer())
        waiting = reply.wait()
        try:
            waiting.send(None)
        except StopIteration as done:
            return done.value.meta.code
        return "suspended"

    assert on_loop(scenario) == "OK"


def test_an_answer_from_another_thread_wakes_the_stream():
    async def scenario(replies):
        reply = replies.expect()
        threading.Timer(0.02, reply, [answer()]).start()
        return (await reply.wait()).meta.code

    assert on_loop(scenario) == "OK"


def test_a_second_answer_is_dropped():
    async def scenario(replies):
        reply = replies.expect()
        reply(answer("first"))
        reply(answer("second"))
        return (await reply.wait()).meta.code

    assert on_loop(scenario) == "first"


def test_what_was_abandoned_is_given_back_when_the_worker_is_done_and_only_once():
    async def scenario(replies):
        given_back = []
        reply = replies.expect()
        stream = asyncio.ensure_future(reply.wait())
        await asyncio.sleep(0)
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
        reply.when_done(lambda: given_back.append(1))
        before = len(given_back)
        reply(answer())
        reply(answer())
        return before, len(given_back)

    assert on_loop(scenario) == (0, 1)


def test_an_answer_after_the_loop_has_closed_reaches_nobody():
    replies = []

    async def scenario(own):
        replies.append(own.expect())

    on_loop(scenario)
    failed = []
    late = threading.Thread(target=lambda: failed.append(replies[0](answer())))
    late.start()
    late.join(5)

    assert failed == [None]
