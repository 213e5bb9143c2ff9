"""What `hof doctor` says about the parts of a broker: facts, not problems."""

import pytest

from hofflight.cli.doctor import broker_parts, examined


def program(folder, name, *lines):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(["#!/bin/sh", *lines, ""]))
    (folder / name).chmod(0o755)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A folder that is all of PATH, on a machine without any cache."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "bin"


def test_what_a_broker_needs_is_said_with_its_versions(machine):
    program(machine, "java", "echo '  java.home = /opt/java'", "echo '  java.version = 17.0.15'")
    program(machine, "mvn", "echo 'Apache Maven 3.8.7'", 'echo "Java home: $JAVA_HOME"')

    parts = broker_parts()

    assert parts["java"] == "17.0.15"
    assert parts["maven"] == "3.8.7"
    assert parts["kafka_jars"].startswith("to be fetched by Maven")


def test_what_is_missing_is_said_with_how_to_get_it(machine):
    parts = broker_parts()

    assert "missing: install Java 17 or newer (Debian: default-jre-headless)" in parts["java"]
    assert "missing: install Maven (Debian: maven)" in parts["maven"]


def test_an_old_java_is_said_to_be_old(machine):
    program(machine, "java", "echo '  java.home = /opt/java'", "echo '  java.version = 11.0.2'")

    assert broker_parts()["java"].startswith("Java 11.0.2 is too old: install")


def test_nobody_has_to_have_a_broker(machine, tmp_path):
    found = examined(tmp_path)

    assert "missing" in found["java"]
    assert found["problems"] == []
