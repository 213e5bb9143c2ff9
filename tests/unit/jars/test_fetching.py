"""`python -m hofflight.jars` says in one line what is missing."""

import subprocess
import sys


def fetching(tmp_path, *names):
    """A run of it on a machine without Java, Maven and cache."""
    return subprocess.run(
        [sys.executable, "-m", "hofflight.jars", *names],
        env={"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_java_is_said_in_one_line(tmp_path):
    run = fetching(tmp_path)

    assert run.returncode == 1
    assert run.stderr.startswith("HOF-601: Java is missing")
    assert run.stderr.count("\n") == 1


def test_a_name_that_is_no_set_is_refused_with_those_that_are(tmp_path):
    run = fetching(tmp_path, "spark", "flink")

    assert run.returncode == 1
    assert run.stderr.startswith("HOF-601: there are no jars called 'flink'")
    assert "kafka, spark" in run.stderr
