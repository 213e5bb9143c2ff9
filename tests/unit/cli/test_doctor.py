"""What `hof doctor` says about Java, Maven, jars and Spark: facts, not problems."""

import sys
from pathlib import Path

import pytest

from hofflight.cli.doctor import examined, java_parts, pyspark_version, spark_parts, worker_python
from hofflight.errors import SettingsError

OURS = f"{sys.version_info.major}.{sys.version_info.minor}"


def program(folder, name, *lines):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(["#!/bin/sh", *lines, ""]))
    (folder / name).chmod(0o755)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A folder that is all of PATH, on a machine without any cache."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "bin"


def test_what_broker_and_bridge_need_is_said_with_its_versions(machine):
    program(machine, "java", "echo '  java.home = /opt/java'", "echo '  java.version = 17.0.15'")
    program(machine, "mvn", "echo 'Apache Maven 3.8.7'", 'echo "Java home: $JAVA_HOME"')

    parts = java_parts()

    assert parts["java"] == "17.0.15"
    assert parts["maven"] == "3.8.7"
    for name in ("kafka", "spark"):
        assert parts[f"{name}_jars"].startswith("to be fetched by Maven")
        assert parts[f"{name}_jars"].endswith(f": python -m hofflight.jars {name}")


def test_what_is_missing_is_said_with_how_to_get_it(machine):
    parts = java_parts()

    assert "missing: install Java 17 or newer (Debian: default-jre-headless)" in parts["java"]
    assert "missing: install Maven (Debian: maven)" in parts["maven"]


def test_an_old_java_is_said_to_be_old(machine):
    program(machine, "java", "echo '  java.home = /opt/java'", "echo '  java.version = 11.0.2'")

    assert java_parts()["java"].startswith("Java 11.0.2 is too old: install")


def test_nobody_has_to_have_a_broker_or_spark(machine, tmp_path):
    found = examined(tmp_path)

    assert "missing" in found["java"]
    assert "to be fetched" in found["spark_jars"]
    assert found["problems"] == []


# --- Spark ----------------------------------------------------------------------------------------


def test_the_spark_of_this_environment_is_one_that_the_bridge_works_with(machine):
    assert spark_parts()["spark"].startswith("pyspark 4.3.")


@pytest.mark.parametrize(
    ("found", "said"), [("", "pyspark is missing"), ("4.2.1", r"4\.2\.1 is not 4\.3\.x")]
)
def test_another_spark_or_none_is_said_with_what_to_install(found, said):
    with pytest.raises(SettingsError, match=said) as refused:
        pyspark_version(found)
    assert refused.value.hint == "pip install 'hofflight[spark]'"


def test_without_pyspark_python_the_bridge_sets_this_interpreter(machine):
    said = spark_parts()["pyspark_python"]

    assert said.startswith("not set, so the bridge sets it")
    assert sys.executable in said


def test_pyspark_python_may_name_this_interpreter(machine, monkeypatch):
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)

    assert spark_parts()["pyspark_python"] == f"this interpreter, {sys.executable}"


def test_pyspark_python_may_name_another_python_that_has_hofflight(machine):
    program(machine, "python-there", f"echo '{OURS} True'")

    assert worker_python("python-there") == "python-there, which has hofflight"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (None, "is no program"),
        (["exit 1"], "does not answer as a Python does"),
        (["echo hello"], "does not answer as a Python does"),
        (["echo '2.7 True'"], "is Python 2.7, this one is"),
        ([f"echo '{OURS} False'"], "has no hofflight"),
    ],
)
def test_a_python_that_workers_cannot_use_is_said_with_the_way_out(
    machine, monkeypatch, lines, said
):
    if lines:
        program(machine, "python-there", *lines)
    monkeypatch.setenv("PYSPARK_PYTHON", "python-there")

    found = spark_parts()["pyspark_python"]

    assert said in found
    assert found.endswith(
        f"unset PYSPARK_PYTHON, or let it name a Python {OURS} that has hofflight"
    )


@pytest.mark.parametrize("has_hofflight", [True, False])
def test_a_real_interpreter_is_asked_what_it_can_import(machine, monkeypatch, has_hofflight):
    """Without site-packages, so that it has what PYTHONPATH holds and nothing else."""
    program(machine, "python-there", f'exec "{sys.executable}" -S "$@"')
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]) if has_hofflight else "")

    if has_hofflight:
        assert worker_python("python-there") == "python-there, which has hofflight"
    else:
        with pytest.raises(SettingsError, match="has no hofflight"):
            worker_python("python-there")
