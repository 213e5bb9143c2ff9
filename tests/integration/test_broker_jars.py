"""Kafka's jars are the pinned bytes or fetched anew, and what stands in the way is said."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hofflight.errors import SettingsError
from hofflight.testing.java import find_java
from hofflight.testing.kafka import kafka_broker
from hofflight.testing.kafka_jars import cache_folder, damage, kafka_jars

A_JAR = "kafka-clients-4.3.0.jar"


@pytest.fixture
def cache(tmp_path):
    """Another cache with the same jars, by links."""
    folder = tmp_path / "cache" / "kafka"
    folder.mkdir(parents=True)
    for jar in kafka_jars():
        (folder / jar.name).symlink_to(jar)
    return folder


def replaced(jar, data):
    """Put other bytes there, not into the user's cache."""
    jar.unlink()
    jar.write_bytes(data)


@pytest.fixture
def mvn(monkeypatch, tmp_path):
    """Puts a `mvn` of the given lines, and a real Java, in PATH; nothing else."""
    monkeypatch.setenv("JAVA_HOME", str(find_java().home))
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", str(bin_))

    def put(*lines):
        (bin_ / "mvn").write_text("\n".join(["#!/bin/sh", *lines, ""]))
        (bin_ / "mvn").chmod(0o755)

    return put


def brings_all(count):
    """Lines of a `mvn` that copies from the user's cache, and writes down that it was called."""
    return [
        f'echo called >> "{count}"',
        "/bin/sleep 0.3",
        f'/bin/mkdir jars && /bin/cp -rs "{cache_folder()}"/. jars',
    ]


def test_a_whole_cache_needs_no_maven(cache, mvn):
    assert kafka_jars(cache) == [cache / jar.name for jar in kafka_jars()]


@pytest.mark.parametrize("harm", ["truncated", "another byte", "missing", "no folder"])
def test_a_jar_that_is_not_as_pinned_is_found_and_fetched_again(cache, mvn, tmp_path, harm):
    jar = cache / A_JAR
    data = jar.read_bytes()
    if harm == "truncated":
        replaced(jar, data[:-1])
    elif harm == "another byte":
        replaced(jar, data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "missing":
        jar.unlink()
    else:
        cache.rename(tmp_path / "elsewhere")
    assert damage(cache)
    mvn(*brings_all(tmp_path / "count"))

    kafka_jars(cache)

    assert damage(cache) == ""
    assert sorted(path.name for path in cache.parent.iterdir()) == ["kafka", "kafka.lock"]


def test_who_asks_at_the_same_time_waits_for_the_one_that_fetches(mvn, tmp_path):
    mvn(*brings_all(tmp_path / "count"))

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(kafka_jars, [tmp_path / "cache" / "kafka"] * 4))

    assert len({tuple(jars) for jars in found}) == 1
    assert (tmp_path / "count").read_text() == "called\n"


def test_what_maven_brings_is_held_against_the_pinned_sums(cache, mvn, tmp_path):
    (cache / A_JAR).unlink()
    mvn("/bin/mkdir jars", f"echo no jar > jars/{A_JAR}")

    with pytest.raises(SettingsError, match="another jar than is pinned"):
        kafka_jars(cache)
    assert not (cache / A_JAR).exists()


def test_without_a_network_the_reason_of_maven_is_said(mvn, tmp_path):
    mvn("echo '[INFO] begins'", "echo '[ERROR] Could not transfer: Unknown host'", "exit 1")

    with pytest.raises(SettingsError, match=r"Could not transfer: Unknown host.*a network"):
        kafka_jars(tmp_path / "kafka")
    assert not (tmp_path / "kafka").exists()


def test_a_missing_maven_is_said_with_what_to_install(mvn, tmp_path):
    with pytest.raises(SettingsError, match=r"Maven is missing.*Debian: maven"):
        kafka_jars(tmp_path / "kafka")


def test_a_missing_java_is_said_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SettingsError, match=r"Java is missing.*17 or newer"), kafka_broker():
        pass


def test_the_set_up_says_in_one_line_what_is_missing(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "hofflight.testing.kafka_jars"],
        env={"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 1
    assert run.stderr.startswith("HOF-601: Java is missing")
    assert run.stderr.count("\n") == 1
