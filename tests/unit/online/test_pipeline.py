"""Answers go to whoever asked, in order; when the connection ends, everyone hears why, once."""

import asyncio
import socket

import pytest
from hiredis import ReplyError, pack_command

from hofflight.online.pipeline import Pipeline
from tests.unit.online.servers import listening


class Asked:
    """The answers in the order that they came, each with who asked."""

    def __init__(self):
        self.came = []
        self._more = asyncio.Event()

    def by(self, who):
        def done(reply):
            self.came.append((who, reply))
            self._more.set()

        return done

    async def wait(self, count):
        async with asyncio.timeout(10):
            while len(self.came) < count:
                self._more.clear()
                await self._more.wait()
        return self.came


def command(*words):
    return pack_command(words)


class Script:
    """A server that reads so many commands, then says this in pieces, and so on; then hangs up.

    `rest`: it stays instead, silent. Each step is (commands, pieces).
    """

    def __init__(self, *steps, rest=False):
        self.steps = steps
        self.rest = rest
        self.read = []

    async def __call__(self, reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for commands, pieces in self.steps:
            for _ in range(commands):
                self.read.append(await one_command(reader))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        if self.rest:
            await reader.read()


async def one_command(reader):
    """The words of a command."""
    count = int((await reader.readline())[1:])
    words = []
    for _ in range(count):
        size = int((await reader.readline())[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


def run(script, talk, *, greeting=()):
    """Connect to the script and `talk(pipeline, asked)`; gives what came."""

    async def connect(port):
        loop, asked = asyncio.get_running_loop(), Asked()
        transport, pipeline = await loop.create_connection(
            lambda: Pipeline(greeting), "127.0.0.1", port
        )
        await talk(pipeline, asked)
        transport.abort()
        await asyncio.sleep(0)
        return asked.came

    with listening(script) as port:
        return asyncio.run(connect(port))


async def until_closed(pipeline):
    """Nobody asked, so nobody is told: there is nothing else to wait for."""
    async with asyncio.timeout(10):
        while pipeline.is_open:  # noqa: ASYNC110 the same
            await asyncio.sleep(0)


def why_of(reply):
    assert type(reply) is ConnectionError, reply
    return str(reply)


# --- answers --------------------------------------------------------------------------------------


def test_each_answer_goes_to_the_one_who_asked_in_order():
    """A hundred questions are out before the first answer comes."""
    script = Script((100, [b"".join(b":%d\r\n" % number for number in range(100))]), rest=True)

    async def talk(pipeline, asked):
        for number in range(100):
            pipeline.ask(command("GET", str(number)), asked.by(number))
        assert pipeline.outstanding == 100
        await asked.wait(100)
        assert pipeline.outstanding == 0

    assert run(script, talk) == [(number, number) for number in range(100)]
    assert script.read == [[b"GET", b"%d" % number] for number in range(100)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
def test_answers_may_come_in_any_pieces(size):
    """Cut anywhere, or several at once: the same answers."""
    said = b"*3\r\n$5\r\nhe\r\no\r\n$0\r\n\r\n$-1\r\n+OK\r\n*0\r\n$2\r\n\xff\x00\r\n"
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    script = Script((4, pieces), rest=True)

    async def talk(pipeline, asked):
        for who in "abcd":
            pipeline.ask(command("MGET", who), asked.by(who))
        await asked.wait(4)

    assert run(script, talk) == [
        ("a", [b"he\r\no", b"", None]), ("b", b"OK"), ("c", []), ("d", b"\xff\0")
    ]  # fmt: skip


def test_an_error_of_the_server_is_an_answer_like_any_other():
    """Only to its own question; the connection goes on."""
    script = Script((2, [b"-OOM no memory\r\n+OK\r\n"]), (1, [b"+still here\r\n"]), rest=True)

    async def talk(pipeline, asked):
        for who in "ab":
            pipeline.ask(command("SET", who), asked.by(who))
        await asked.wait(2)
        assert pipeline.is_open
        pipeline.ask(command("PING"), asked.by("c"))
        await asked.wait(3)

    (_, refused), *others = run(script, talk)
    assert isinstance(refused, ReplyError)
    assert str(refused) == "OOM no memory"
    assert others == [("b", b"OK"), ("c", b"still here")]


def test_whoever_has_an_answer_may_ask_again_at_once():
    """From within `done`, while others wait: it comes last."""
    script = Script((2, [b"+1\r\n+2\r\n"]), (1, [b"+3\r\n"]), rest=True)

    async def talk(pipeline, asked):
        def again(reply):
            asked.by("a")(reply)
            pipeline.ask(command("GET", "c"), asked.by("c"))

        pipeline.ask(command("GET", "a"), again)
        pipeline.ask(command("GET", "b"), asked.by("b"))
        await asked.wait(3)

    assert run(script, talk) == [("a", b"1"), ("b", b"2"), ("c", b"3")]


# --- the greeting ---------------------------------------------------------------------------------


def test_the_greeting_is_said_first_and_its_answers_are_nobodys():
    """Questions go out behind it without waiting for it."""
    script = Script((3, [b"+OK\r\n+OK\r\n:7\r\n"]), rest=True)
    greeting = [command("AUTH", "secret"), command("SELECT", "2")]

    async def talk(pipeline, asked):
        pipeline.ask(command("GET", "a"), asked.by("a"))
        await asked.wait(1)

    assert run(script, talk, greeting=greeting) == [("a", 7)]
    assert [words[0] for words in script.read] == [b"AUTH", b"SELECT", b"GET"]


@pytest.mark.parametrize("refused", [0, 1], ids=["the first word", "the second word"])
def test_a_refused_greeting_ends_the_connection_with_the_servers_words(refused):
    """What was asked behind it is never answered by a server that does not know who asks."""
    answers = [b"+OK\r\n", b"+OK\r\n", b"+the answer\r\n"]
    answers[refused] = b"-WRONGPASS invalid password\r\n"
    script = Script((4, [b"".join(answers), b"+another\r\n"]), rest=True)
    greeting = [command("AUTH", "wrong"), command("SELECT", "2")]

    async def talk(pipeline, asked):
        for who in "ab":
            pipeline.ask(command("GET", who), asked.by(who))
        await asked.wait(2)
        assert not pipeline.is_open
        assert pipeline.outstanding == 0
        await asyncio.sleep(0.01)  # what else the server says is nobody's

    came = run(script, talk, greeting=greeting)
    assert [who for who, _ in came] == ["a", "b"]
    assert {why_of(reply) for _, reply in came} == {"WRONGPASS invalid password"}


# --- its end --------------------------------------------------------------------------------------


def test_a_lost_connection_is_told_to_everyone_who_waits():
    """Whoever had an answer keeps it; the others hear the same, in order, once."""
    script = Script((4, [b"+1\r\n+2\r\n$100\r\nhalf an ans"]))

    async def talk(pipeline, asked):
        for who in "abcd":
            pipeline.ask(command("GET", who), asked.by(who))
        await asked.wait(4)
        assert not pipeline.is_open
        assert pipeline.outstanding == 0

    (*answered, (third, lost), (fourth, as_well)) = run(script, talk)
    assert answered == [("a", b"1"), ("b", b"2")]
    assert (third, fourth) == ("c", "d")
    assert why_of(lost) == why_of(as_well) == "the server closed the connection"


def test_a_server_that_answers_what_nobody_asked_is_left():
    """Its next answer would go to the wrong question."""
    script = Script((1, [b"+1\r\n+not asked\r\n"]), rest=True)

    async def talk(pipeline, asked):
        pipeline.ask(command("GET", "a"), asked.by("a"))
        await asked.wait(1)
        await until_closed(pipeline)

    assert run(script, talk) == [("a", b"1")]


def test_a_server_that_speaks_first_is_left():
    """It is no server of this protocol; a question that is on its way gets no answer of it."""
    script = Script((0, [b"+220 mail.example.com\r\n"]), rest=True)

    async def talk(pipeline, asked):
        await until_closed(pipeline)

    assert run(script, talk) == []


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad\r\n\r\n", b"$x\r\n", b"\0\0\0\0\r\n"])
def test_garbage_ends_the_connection_and_answers_nobody(garbage):
    """What came before it counts; what it says is repeated to nobody as an answer."""
    script = Script((3, [b"+1\r\n" + garbage]), rest=True)

    async def talk(pipeline, asked):
        for who in "abc":
            pipeline.ask(command("GET", who), asked.by(who))
        await asked.wait(3)
        assert not pipeline.is_open

    first, *others = run(script, talk)
    assert first == ("a", b"1")
    assert [who for who, _ in others] == ["b", "c"]
    for _, reply in others:
        assert "does not speak this protocol" in why_of(reply)


def test_abort_tells_everyone_why_and_late_answers_reach_nobody():
    """At once, not when the connection is gone; then nothing more, whatever comes."""
    script = Script((3, [b"+1\r\n"]), (0, [b"+2\r\n+3\r\n"] * 50), rest=True)

    async def talk(pipeline, asked):
        for who in "abc":
            pipeline.ask(command("GET", who), asked.by(who))
        await asked.wait(1)
        # The others' answers may be here already: they came in time, or not at all.
        before = len(asked.came)
        pipeline.abort("it took too long")
        assert pipeline.outstanding == 0
        assert len(asked.came) == 3
        assert [why_of(reply) for _, reply in asked.came[before:]] == ["it took too long"] * (
            3 - before
        )
        pipeline.abort("again")
        await asyncio.sleep(0.01)

    assert [who for who, _ in run(script, talk)] == ["a", "b", "c"]


def test_whoever_hears_of_the_end_may_end_it_too():
    """A store that lets go of the connection from within an answer's callback."""
    script = Script((3, [b"-ERR\r\n+2\r\n+3\r\n"]), rest=True)

    async def talk(pipeline, asked):
        def leave(reply):
            asked.by("a")(reply)
            pipeline.abort("left")

        pipeline.ask(command("GET", "a"), leave)
        for who in "bc":
            pipeline.ask(command("GET", who), asked.by(who))
        await asked.wait(3)
        await asyncio.sleep(0.01)

    (_, refused), *others = run(script, talk)
    assert isinstance(refused, ReplyError)
    assert [(who, why_of(reply)) for who, reply in others] == [("b", "left"), ("c", "left")]
