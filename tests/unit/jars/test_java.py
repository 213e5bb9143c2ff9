"""Java is the first that is new enough, and what is missing is said with how to get it."""

from pathlib import Path

import pytest

from hofflight.errors import SettingsError
from hofflight.jars.java import Java, find_java, java_environment


def pretends(folder, version, *, home="/opt/some java"):
    """A `java` that describes itself as Java does, on standard error."""
    folder.mkdir(parents=True)
    program = folder / "java"
    lines = f"Property settings:\n    java.home = {home}\n    java.version = {version}\n"
    program.write_text(f"#!/bin/sh\necho '{lines}' >&2\n")
    program.chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """Neither JAVA_HOME nor anything in PATH."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("version", "major"),
    [("17.0.15", 17), ("21-ea", 21), ("25", 25), ("1.8.0_392", 8), ("11.0.2+9", 11), ("new", 0)],
)
def test_the_major_number_is_read_off_every_form_of_a_version(version, major):
    assert Java(Path("/opt/java"), version).major == major


def test_the_java_of_path_is_found_where_it_says_it_lives(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(pretends(tmp_path / "bin", "21.0.1")))

    assert find_java() == Java(Path("/opt/some java"), "21.0.1")
    assert find_java().program == Path("/opt/some java/bin/java")


def test_java_home_comes_before_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(pretends(tmp_path / "bin", "21.0.1")))
    monkeypatch.setenv("JAVA_HOME", str(pretends(tmp_path / "home" / "bin", "17.0.1").parent))

    assert find_java().version == "17.0.1"


@pytest.mark.parametrize("version", ["11.0.2", None])
def test_a_java_home_that_is_old_or_not_there_gives_way_to_path(monkeypatch, tmp_path, version):
    monkeypatch.setenv("PATH", str(pretends(tmp_path / "bin", "21.0.1")))
    if version:
        pretends(tmp_path / "home" / "bin", version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))

    assert find_java().version == "21.0.1"


def test_no_java_is_said_with_what_to_install():
    with pytest.raises(SettingsError, match=r"is missing.*17 or newer.*default-jre-headless"):
        find_java()


def test_an_old_java_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(pretends(tmp_path / "bin", "1.8.0_392")))

    with pytest.raises(SettingsError, match=r"Java 1\.8\.0_392 is too old.*17 or newer"):
        find_java()


def test_what_does_not_run_is_no_java(monkeypatch, tmp_path):
    folder = pretends(tmp_path / "bin", "21.0.1")
    (folder / "java").write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("PATH", str(folder))

    with pytest.raises(SettingsError, match="Java is missing"):
        find_java()


def test_options_in_the_environment_do_not_reach_another_program(monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx1k")
    monkeypatch.setenv("MAVEN_OPTS", "-Dkept=yes")

    environment = java_environment(Java(Path("/opt/java"), "17"))

    assert "JAVA_TOOL_OPTIONS" not in environment
    assert environment["MAVEN_OPTS"] == "-Dkept=yes"
    assert environment["JAVA_HOME"] == "/opt/java"
