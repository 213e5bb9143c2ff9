"""A set of jars is the pinned bytes or fetched anew, and what stands in the way is said."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from hofflight.errors import SettingsError
from hofflight.jars.maven import PinnedJars, cache_folder, damage, jars_of

JARS = {"second-2.0.jar": b"the second", "first-1.0.jar": b"the first"}


@pytest.fixture
def pinned(tmp_path):
    """A set of two small files; its pom says so to no one but our `mvn`."""
    sums = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in JARS.items()]
    (tmp_path / "set.sha256").write_text("".join(sums))
    (tmp_path / "set.xml").write_text("<project/>")
    return PinnedJars("set-1.0", tmp_path / "set.xml", tmp_path / "set.sha256")


@pytest.fixture
def cache(tmp_path):
    """A folder with the set in it, whole."""
    folder = tmp_path / "cache" / "set"
    folder.mkdir(parents=True)
    for name, data in JARS.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def mvn(monkeypatch, tmp_path):
    """Puts a `mvn` of the given lines, beside a `java`, in PATH; nothing else."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(bin_))

    def put(name, *lines):
        (bin_ / name).write_text("\n".join(["#!/bin/sh", *lines, ""]))
        (bin_ / name).chmod(0o755)

    put("java", "echo '  java.home = /opt/java'", "echo '  java.version = 17.0.15'")
    return lambda *lines: put("mvn", *lines)


def brings_all(count):
    """Lines of a `mvn` that reads the pom, brings all jars, and writes down that it was called."""
    return [
        f'echo called >> "{count}"',
        "/bin/sleep 0.1",
        'test "$(/bin/cat pom.xml)" = "<project/>" || exit 1',
        "/bin/mkdir jars",
        *[f"printf %s '{data.decode()}' > jars/{name}" for name, data in JARS.items()],
    ]


def test_a_whole_cache_needs_no_maven_and_has_the_order_of_the_sums(pinned, cache, mvn):
    assert jars_of(pinned, cache) == [cache / "second-2.0.jar", cache / "first-1.0.jar"]


def test_each_set_has_a_folder_of_its_own_in_the_users_cache(pinned, monkeypatch, tmp_path, mvn):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    mvn(*brings_all(tmp_path / "count"))

    jars_of(pinned)

    assert cache_folder(pinned) == tmp_path / "users" / "hofflight" / "set-1.0"
    assert damage(pinned, cache_folder(pinned)) == ""


@pytest.mark.parametrize("harm", ["truncated", "another byte", "missing", "no folder"])
def test_a_jar_that_is_not_as_pinned_is_found_and_fetched_again(pinned, cache, mvn, tmp_path, harm):
    jar = cache / "first-1.0.jar"
    if harm == "truncated":
        jar.write_bytes(JARS[jar.name][:-1])
    elif harm == "another byte":
        jar.write_bytes(b"T" + JARS[jar.name][1:])
    elif harm == "missing":
        jar.unlink()
    else:
        cache.rename(tmp_path / "elsewhere")
    assert damage(pinned, cache)
    mvn(*brings_all(tmp_path / "count"))

    jars_of(pinned, cache)

    assert damage(pinned, cache) == ""
    assert sorted(path.name for path in cache.parent.iterdir()) == ["set", "set.lock"]


def test_who_asks_at_the_same_time_waits_for_the_one_that_fetches(pinned, mvn, tmp_path):
    mvn(*brings_all(tmp_path / "count"))

    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(jars_of, pinned, tmp_path / "cache" / "set") for _ in range(4)]

    assert len({tuple(jars.result()) for jars in asked}) == 1
    assert (tmp_path / "count").read_text() == "called\n"


def test_what_maven_brings_is_held_against_the_pinned_sums(pinned, cache, mvn):
    (cache / "first-1.0.jar").unlink()
    mvn("/bin/mkdir jars", "for jar in first-1.0 second-2.0; do echo no jar > jars/$jar.jar; done")

    with pytest.raises(SettingsError, match=r"another jar than is pinned: second-2\.0\.jar has"):
        jars_of(pinned, cache)
    assert not (cache / "first-1.0.jar").exists()


def test_without_a_network_the_reason_of_maven_is_said(pinned, mvn, tmp_path):
    mvn("echo '[INFO] begins'", "echo '[ERROR] Could not transfer: Unknown host'", "exit 1")

    with pytest.raises(SettingsError, match=r"set-1\.0: Could not transfer: Unknown.*a network"):
        jars_of(pinned, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_missing_maven_is_said_with_what_to_install(pinned, mvn, tmp_path):
    with pytest.raises(SettingsError, match=r"HOF-601: Maven is missing.*Debian: maven"):
        jars_of(pinned, tmp_path / "set")


def test_a_cache_that_cannot_be_written_is_said_with_what_to_set(pinned, mvn, tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(SettingsError, match=r"set-1\.0 cannot be written.*XDG_CACHE_HOME"):
        jars_of(pinned, tmp_path / "file" / "set")
