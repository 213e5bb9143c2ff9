"""Several applications work one group, as on several hosts: a store each, one registry."""

import contextlib
from contextlib import ExitStack

import psutil
import pytest

import hofflight as hof
from hofflight.errors import Indefinite
from tests.integration.kafka_place import KafkaPlace, ended, event

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
CARDS = range(8)


def killed(supervisor):
    """SIGKILL for an application and whatever it started: a host that is gone says nothing."""
    everything = [supervisor, *psutil.Process(supervisor.pid).children(recursive=True)]
    for process in everything:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def is_answered(client, card):
    """Whether the partition of a card has somebody who works it."""
    try:
        return client.vector("card_tx", event(card, 1), deadline_ms=1_500) is not None
    except Indefinite:
        return False


def counts(client, cards, number):
    found = client.vector("card_tx", [event(card, number) for card in cards])
    return found.batch["card_tx.n_60"].to_pylist()


def test_an_application_that_dies_stops_no_other_and_another_one_takes_its_partition(
    tmp_path, broker
):
    """What was in the topic and unanswered is answered by the other one, with the same windows."""
    place = KafkaPlace(tmp_path, broker.bootstrap, partitions=2, nudge=1)
    place.register()
    shared = ("--checkpoint", str(tmp_path / "shared"))
    with ExitStack() as stack:
        _, address = stack.enter_context(place.serving())
        client = stack.enter_context(hof.connect(address, deadline_ms=60_000))
        dies = stack.enter_context(
            place.sparking("--partitions", "1", "--mode", "microbatch", *shared, store="one")
        )
        stays = stack.enter_context(
            place.sparking("--partitions", "0", "--trigger", "10s", "--takeover", "15s", *shared,
                           store="two")
        )  # fmt: skip
        assert counts(client, CARDS, 0) == [1] * 8
        for store in ("one", "three"):  # in its store, and as on a third host
            refused = place("spark", "--once", "--group", "card_tx", "--modules", "features",
                            "--store", store, "--partitions", "1")  # fmt: skip
            assert refused.returncode == 1
            assert "HOF-501" in refused.stderr
        killed(dies)
        cards = [card for card in CARDS if is_answered(client, card)]
        assert 0 < len(cards) < 8
        others = [card for card in CARDS if card not in cards]

        # Unless its deadline was over before, the request from above is counted too.
        assert set(counts(client, others, 2)) <= {2, 3}
        assert set(counts(client, cards, 2)) == {3}
        assert "taken_over" in stays.log.read_text()
        assert ended(stays) == 0
    for partition in (0, 1):
        assert place.verified(partition, store="two")["mismatches"] == 0


@pytest.mark.soak
def test_a_new_host_begins_with_the_copy_beside_the_checkpoint(tmp_path, broker):
    """State, history and all: the topic is read from where the copy ends."""
    place = KafkaPlace(tmp_path, broker.bootstrap, partitions=1, nudge=1)
    place.register()
    with place.serving() as (_, address), hof.connect(address, deadline_ms=60_000) as client:
        for number, store in enumerate(("one", "two", "three")):
            options = ("--trigger", "10s", "--checkpoint", str(tmp_path / "shared"))
            with place.sparking(*options, store=store) as application:
                assert counts(client, CARDS, number) == [number + 1] * 8
                assert ended(application) == 0
            said = application.log.read_text()
            assert ("restored" in said) == (number > 0)
            assert "gap" not in said
    assert place.verified(0, store="three")["rows"] == 24
