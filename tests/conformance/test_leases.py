"""A topic has one holder at a time, whoever asks, from wherever."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.registries import together

TTL_US = 600_000_000
TOPICS = ["reply-0", "reply-1", "reply-2"]
EPOCH_MAX = (1 << 63) - 1


@pytest.fixture
def leases(registry):
    return registry.leases()


def holders(leases):
    return {lease.topic: (lease.instance, lease.epoch) for lease in leases.held()}


def test_the_first_topic_that_is_free_is_given_until_none_is(leases):
    """One each, in the order of the pool; then there is none."""
    assert [leases.acquire(TOPICS, f"i{n}", n, TTL_US) for n in range(4)] == [*TOPICS, None]
    assert holders(leases) == {topic: (f"i{n}", n) for n, topic in enumerate(TOPICS)}
    assert leases.acquire([], "i", 9, TTL_US) is None


def test_what_ran_out_is_given_to_the_next(place, leases):
    """A server that died says nothing; its topic comes back by itself, and it does not."""
    leases.acquire(TOPICS, "old", 1, TTL_US)
    leases.acquire(TOPICS, "living", 2, 3 * TTL_US)
    place.pass_time(TTL_US + 1)

    assert holders(leases) == {"reply-1": ("living", 2)}
    assert leases.acquire(TOPICS, "new", 3, TTL_US) == "reply-0"
    assert not leases.renew("reply-0", 1, TTL_US)
    assert holders(leases) == {"reply-0": ("new", 3), "reply-1": ("living", 2)}


def test_a_lease_that_is_renewed_does_not_run_out(place, leases):
    """It holds from the last renewal on."""
    leases.acquire(TOPICS, "i", 1, TTL_US)
    for _ in range(3):
        place.pass_time(TTL_US * 2 // 3)
        assert leases.renew("reply-0", 1, TTL_US)

    assert leases.acquire(TOPICS[:1], "other", 2, TTL_US) is None


def test_a_lease_that_ran_out_may_be_renewed_until_somebody_takes_it(place, leases):
    """A server that was suspended for a while goes on where nobody needed its topic."""
    leases.acquire(TOPICS, "i", 1, TTL_US)
    place.pass_time(2 * TTL_US)

    assert leases.renew("reply-0", 1, TTL_US)
    assert holders(leases) == {"reply-0": ("i", 1)}
    assert leases.acquire(TOPICS[:1], "other", 2, TTL_US) is None


def test_only_the_holder_renews_and_releases(leases):
    """Another life of the same instance is somebody else."""
    leases.acquire(TOPICS, "i", EPOCH_MAX, TTL_US)

    assert not leases.renew("reply-0", 1, TTL_US)
    leases.release("reply-0", 1)
    assert holders(leases) == {"reply-0": ("i", EPOCH_MAX)}
    assert leases.acquire(TOPICS, "i", 1, TTL_US) == "reply-1"

    leases.release("reply-0", EPOCH_MAX)
    assert not leases.renew("reply-0", EPOCH_MAX, TTL_US)
    assert holders(leases) == {"reply-1": ("i", 1)}
    assert not leases.renew("nothing", 1, TTL_US)
    leases.release("nothing", 1)


def test_whoever_asks_again_has_what_it_had(leases):
    """The answer to the first time may have been lost with the connection."""
    assert [leases.acquire(TOPICS, "i", 1, TTL_US) for _ in range(3)] == ["reply-0"] * 3
    assert len(leases.held()) == 1


def test_a_lease_is_seen_by_all_who_share_the_database(place, leases):
    """Readers too; after everything was closed as well."""
    leases.acquire(TOPICS, "i", 1, TTL_US)
    (lease,) = leases.held()

    assert place.open(read_only=True).leases().held() == [lease]
    assert place.open().leases().acquire(TOPICS[:1], "j", 2, TTL_US) is None


def test_processes_that_ask_at_one_moment_get_a_topic_each(place):
    """Five ask for three: nobody gets another one's, and nobody goes without for nothing."""
    said = together(place.url, "lease", 5)

    assert Counter(said) == {**dict.fromkeys(TOPICS, 1), None: 2}
    found = {f"server-{number}": topic for number, topic in enumerate(said) if topic}
    assert found == {lease.instance: lease.topic for lease in place.open().leases().held()}


def test_threads_that_come_and_go_never_hold_one_topic_together(place):
    """Each with a connection of its own, taking and giving back as fast as it goes."""
    inside, worst, count = Counter(), Counter(), Counter()
    lock = threading.Lock()

    def come_and_go(epoch):
        leases = place.open().leases()
        for _ in range(15):
            topic = leases.acquire(TOPICS[:2], f"i{epoch}", epoch, TTL_US)
            if topic is None:
                continue
            with lock:
                inside[topic] += 1
                count[topic] += 1
                worst[topic] = max(worst[topic], inside[topic])
            renewed = leases.renew(topic, epoch, TTL_US)
            with lock:
                inside[topic] -= 1
            leases.release(topic, epoch)
            assert renewed

    place.open()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(1, 5)))

    assert set(worst.values()) == {1}
    assert count.total() >= 15


def test_a_lease_that_ran_out_goes_to_its_holder_or_to_another_and_not_to_both(place):
    """Renewed and taken at one moment: one of the two has it, and the other one knows."""
    mine, theirs = place.open().leases(), place.open().leases()
    with ThreadPoolExecutor(2) as pool:
        for number in range(1, 30):
            topic = f"t{number}"
            assert mine.acquire([topic], "mine", number, TTL_US) == topic
            place.pass_time(2 * TTL_US)
            start = threading.Barrier(2)

            def renew(topic=topic, number=number, start=start):
                start.wait()
                return mine.renew(topic, number, TTL_US)

            def take(topic=topic, number=number, start=start):
                start.wait()
                return theirs.acquire([topic], "theirs", -number, TTL_US) == topic

            renewed, taken = pool.submit(renew), pool.submit(take)
            assert renewed.result() != taken.result()
            assert holders(mine)[topic] == (("theirs", -number) if taken.result() else
                                            ("mine", number))  # fmt: skip
