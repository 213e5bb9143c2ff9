"""The pinned sets are in the user's cache, and a harmed one is fetched again."""

import pytest

from hofflight.errors import SettingsError
from hofflight.jars.java import find_java
from hofflight.jars.maven import cache_folder, damage, jars_of
from hofflight.jars.pinned import SETS, kafka_jars, spark_jars
from hofflight.testing.kafka import kafka_broker


@pytest.fixture(params=[("kafka", "kafka-clients-4.3.0.jar"), ("spark", "kafka-clients-3.9.2.jar")])
def harmed(request, tmp_path):
    """A set, and another cache with its jars, by links: one of them has other bytes."""
    pinned, name = SETS[request.param[0]], request.param[1]
    folder = tmp_path / "cache" / pinned.name
    folder.mkdir(parents=True)
    for jar in jars_of(pinned):
        (folder / jar.name).symlink_to(jar)
    data = (folder / name).read_bytes()
    (folder / name).unlink()  # the link, not the user's cache
    (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return pinned, folder


@pytest.fixture
def no_maven(monkeypatch, tmp_path):
    """A real Java, and a folder that is all of PATH."""
    monkeypatch.setenv("JAVA_HOME", str(find_java().home))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_a_harmed_jar_of_each_set_is_fetched_again(harmed, no_maven):
    pinned, folder = harmed
    assert damage(pinned, folder).startswith("kafka-clients-")
    copies = f'/bin/mkdir jars && /bin/cp -rs "{cache_folder(pinned)}"/. jars'
    (no_maven / "mvn").write_text(f"#!/bin/sh\n{copies}\n")
    (no_maven / "mvn").chmod(0o755)

    jars_of(pinned, folder)

    assert damage(pinned, folder) == ""


def test_a_harmed_jar_without_maven_is_refused_with_what_to_install(harmed, no_maven):
    with pytest.raises(SettingsError, match=r"HOF-601: Maven is missing.*Debian: maven"):
        jars_of(*harmed)


def test_the_class_paths_are_two_and_share_no_folder():
    """Kafka's clients are of two versions: one class path of both would be neither."""
    assert not {jar.parent for jar in kafka_jars()} & {jar.parent for jar in spark_jars()}


def test_a_broker_without_java_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SettingsError, match=r"Java is missing.*17 or newer"), kafka_broker():
        pass
