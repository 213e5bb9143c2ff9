"""The commands of the guide to Spark are ones that `hof` understands."""

import shlex
from pathlib import Path

import pytest
import typer
from typer.exceptions import TyperException

from hofflight.cli.main import app

REPO = Path(__file__).parents[3]
PAGES = [REPO / "docs/guide/spark.md", REPO / "docs/reference/cli.md"]


def commands(page):
    """Each `hof ...` and `spark-submit ... hof's arguments` of a page's shell blocks."""
    blocks = page.read_text(encoding="utf-8").split("```sh\n")[1:]
    lines = "".join(block.split("```")[0] for block in blocks).replace("\\\n", " ").splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["hof"]:
            yield words[1:]
        if words[:1] == ["spark-submit"]:
            yield words[words.index("spark") :]


FOUND = [each for page in PAGES for each in commands(page)]


def parsed(words):
    """The options of a command line; groups of commands one by one."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command.make_context("hof", list(words)).params


@pytest.mark.parametrize("words", FOUND, ids=" ".join)
def test_a_command_of_the_guide_is_one_that_hof_understands(words):
    parsed(words)


def test_some_are_found_and_a_wrong_one_is_seen():
    assert {words[0] for words in FOUND} >= {"spark", "serve", "register", "verify", "train", "log"}
    assert sum(words[0] == "spark" for words in FOUND) >= 4
    with pytest.raises(TyperException, match="--trigered"):
        parsed(["spark", "--group", "a", "--modules", "b", "--store", "c", "--trigered", "5m"])
