"""What all tests share: how much hypothesis tries, and one Kafka broker.

`HYPOTHESIS_PROFILE=fast|ci|soak`: see the Makefile's lanes.
"""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from hofflight.testing.kafka import kafka_broker

for profile, max_examples in {"fast": 20, "ci": 100, "soak": 2_000}.items():
    settings.register_profile(
        profile,
        max_examples=max_examples,
        derandomize=False,  # each run tries something new; a failure prints how to see it again
        print_blob=True,
        deadline=None,  # a shared machine is slow now and then; pytest-timeout catches what hangs
        suppress_health_check=[HealthCheck.too_slow],  # the same
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
# What a shell starts in its background ignores SIGINT, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def broker():
    """A Kafka broker for tests that make topics of their own; who stops or kills starts another."""
    with kafka_broker() as broker:
        yield broker


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items):
    """Whoever uses the broker is marked, so that `make check` can do without."""
    for item in items:
        if "broker" in item.fixturenames:
            item.add_marker(pytest.mark.kafka)
