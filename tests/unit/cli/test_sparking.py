"""`hof spark`: what is wrong with its command line is said before anything starts."""

import pytest
from typer.testing import CliRunner

from hofflight.cli import main
from hofflight.errors import HofError, SettingsError

NEEDED = ["spark", "--once", "--group", "g", "--store", "nowhere", "--modules", "no_such_code"]


def refused(*arguments):
    """The error of a command line."""
    return CliRunner().invoke(main.app, [*NEEDED, *arguments]).exception


@pytest.mark.parametrize("conf", ["spark.x", "x=1", "=1", "", "Spark.x=1", "--conf"])
def test_a_setting_that_is_none_of_sparks_is_refused(conf):
    found = refused(f"--conf={conf}")
    assert isinstance(found, SettingsError)
    assert found.code == "HOF-601"
    assert "is no spark.KEY" in found.message


@pytest.mark.parametrize("conf", ["spark.x=1", "spark.x=", "spark.x=a=b"])
def test_settings_of_sparks_are_taken(conf):
    """What is wrong is then the next thing: there is no such module."""
    found = refused(f"--conf={conf}", "--conf=spark.y=2")
    assert "no_such_code" in found.message


@pytest.mark.parametrize("partitions", ["x", "3-1", "", "-1", "1,,2"])
def test_partitions_that_are_none_are_refused(partitions):
    found = refused(f"--partitions={partitions}")
    assert isinstance(found, HofError)
    assert found.code == "HOF-601"


@pytest.mark.parametrize("arguments", [["--mode", "batch"], ["--trigger"], ["--unknown", "x"]])
def test_options_that_are_none_end_with_2(arguments):
    assert CliRunner().invoke(main.app, [*NEEDED, *arguments]).exit_code == 2


@pytest.mark.parametrize("missing", ["--group", "--store", "--modules"])
def test_what_is_needed_is_asked_for(missing):
    at = NEEDED.index(missing)
    left = NEEDED[:at] + NEEDED[at + 2 :]
    assert CliRunner().invoke(main.app, left).exit_code == 2
