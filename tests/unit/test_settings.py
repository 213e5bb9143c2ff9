"""Settings from the environment: what is no setting is said, and never passed over."""

import os

import pytest

from hofflight.errors import SettingsError
from hofflight.settings import load_settings, without_settings, worker_environment


@pytest.mark.parametrize(
    "name",
    ["HOF_BOGUS__X", "hof_bogus__x", "HOF_KAFKA__BOGUS", "HOF_KAFKA", "HOF_LOG__", "HOF___X"],
)
def test_a_variable_that_is_no_setting_is_refused(monkeypatch, name):
    """A name with a typo would else be a default that nobody chose."""
    monkeypatch.setenv(name, "secret")
    with pytest.raises(SettingsError, match="HOF-601") as found:
        load_settings()
    assert "secret" not in str(found.value)


def test_variables_of_other_things_are_let_be(monkeypatch):
    """`HOF_DEBUG` is none of the sections', and what others have is theirs."""
    for name in ("HOF_DEBUG", "HOFFLIGHT__X", "KAFKA__BOOTSTRAP", "HOF_DEMO_DIR"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HOF_KAFKA__PARTITIONS", "3")
    assert load_settings().kafka.partitions == 3


def test_settings_of_whoever_starts_a_process_are_left_out(monkeypatch):
    monkeypatch.setenv("HOF_KAFKA__PREFIX", "others")
    monkeypatch.setenv("hof_log__durability", "batch")
    monkeypatch.setenv("HOF_DEBUG", "1")

    kept = without_settings()

    assert not {"HOF_KAFKA__PREFIX", "hof_log__durability"} & kept.keys()
    assert (kept["HOF_DEBUG"], kept["PATH"]) == ("1", os.environ["PATH"])


def test_a_process_of_workers_reads_the_settings_that_were_given_as_objects(monkeypatch, tmp_path):
    """And none of our environment's: an object has the last word, also where it has the default."""
    given = load_settings(
        log={"durability": "batch", "seal_bytes": 0},
        engine={"transform_timeout_ms": 7},
        replay={"spill": tmp_path},
        registry={"url": "postgresql://hof:s3cret@h/d"},
        kafka={
            "bootstrap": "a:1,b:2", "security": "SASL_SSL", "username": "u", "password": ' p="$',
            "tls_ca": tmp_path / "ca.pem", "features": False, "nudge": True,
        },
    )  # fmt: skip
    monkeypatch.setenv("HOF_KAFKA__PARTITIONS", "3")
    monkeypatch.setattr(os, "environ", {**without_settings(), **worker_environment(given)})

    found = load_settings()
    for section in ("log", "engine", "replay", "registry", "kafka"):
        assert getattr(found, section) == getattr(given, section)
    assert found.kafka.partitions == 8


def test_a_process_of_workers_gets_no_secret_that_it_does_not_use():
    given = load_settings(
        server={"tokens": ("s3cret",)},
        online={"url": "redis://:s3cret@h:1"},
    )
    assert worker_environment(given) == {}
