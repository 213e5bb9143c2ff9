"""Health as probes ask it: ready, alive, or gone."""

import asyncio
import signal
import time

import pytest

from hofflight.errors import SettingsError
from hofflight.server.health_check import ask_health
from hofflight.server.serve import FlightServer
from hofflight.settings import ServerSettings
from tests.integration.kafka_place import KafkaPlace, ended
from tests.integration.test_cli import COMMAND, runner
from tests.unit.server.fake_server import FakeWorker


def test_health_says_whether_requests_are_taken(tmp_path):
    """Over TCP and over a socket, and no answer where nobody listens any more."""
    socket = tmp_path / "hof.sock"

    async def main():
        server = FlightServer(FakeWorker(), ServerSettings(grpc="127.0.0.1:0", grpc_unix=socket))
        port = await server.start()
        urls = [f"grpc://127.0.0.1:{port}", f"grpc+unix://{socket}"]

        async def said():
            return [await asyncio.to_thread(ask_health, url, None, 5.0) for url in urls]

        found = [await said()]
        for is_ready in (False, True):
            await server.tell_ready(is_ready=is_ready)
            found.append(await said())
        await server.drain()
        return found, await said()

    found, gone = asyncio.run(main())
    assert found == [["SERVING"] * 2, ["NOT_SERVING"] * 2, ["SERVING"] * 2]
    assert gone == ["UNAVAILABLE"] * 2


@pytest.mark.parametrize("url", ["", "127.0.0.1:8817", "http://127.0.0.1:1", "grpc://"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(SettingsError, match="HOF-601"):
        ask_health(url, None, 1.0)


def test_the_command_exits_as_a_probe_wants_it(tmp_path):
    """0 for a server that takes requests, 1 for none, 2 for a question that is none."""
    run = runner(tmp_path)
    gone = f"grpc+unix://{tmp_path}/none.sock"
    done = run("health", "--url", gone)
    assert (done.returncode, done.stdout) == (1, "UNAVAILABLE\n")
    assert run("health", "--live", "--url", gone).returncode == 1
    assert run("health", "--url", "nobody").returncode == 2


@pytest.mark.kafka
def test_a_server_that_lost_its_topic_for_answers_is_alive_and_not_ready(tmp_path, broker):
    """Its lease could not be renewed; with the registry it comes back by itself."""
    place = KafkaPlace(tmp_path, broker.bootstrap, lease_ttl_ms=1_000)
    place.register()
    registry = tmp_path / "registry.sqlite"

    def becomes(address, status):
        end = time.monotonic() + 20
        while (said := ask_health(address, None, 5.0)) != status:
            assert time.monotonic() < end, said
            time.sleep(0.1)

    with place.serving() as (server, address):
        becomes(address, "SERVING")
        registry.rename(tmp_path / "away")
        registry.mkdir()  # else SQLite would make a new one
        becomes(address, "NOT_SERVING")
        assert place("health", "--url", address).stdout == "NOT_SERVING\n"
        assert place("health", "--live", "--url", address).returncode == 0
        registry.rmdir()
        (tmp_path / "away").rename(registry)
        becomes(address, "SERVING")
        assert ended(server) == 0


@pytest.mark.kafka
def test_a_server_that_waits_for_a_topic_ends_when_it_is_told_to(tmp_path, broker):
    place = KafkaPlace(tmp_path, broker.bootstrap, reply_topics=1, lease_ttl_ms=60_000)
    place.register()
    waits = [*COMMAND, "serve", "--grpc", "127.0.0.1:0"]
    with place.serving(), place.process(waits) as waiting:
        end = time.monotonic() + 30
        while "no_reply_topic" not in waiting.log.read_text():
            assert time.monotonic() < end, waiting.log.read_text()
            time.sleep(0.1)
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(10) == 0
