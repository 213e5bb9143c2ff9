"""What `hof train`, `verify` and `backfill` make of their command line, and how parity is shown."""

import pytest
from typer.testing import CliRunner

from hofflight.cli import main
from hofflight.cli.offline import named, parity_line, show_parity
from hofflight.errors import SettingsError
from hofflight.wire.parity import Difference, Parity

WORST = [Difference("g.n", f"{number:032x}", 0, number, 7, 0.5) for number in range(8)]
PARITY = Parity(
    "fraud", 2, "c0de", rows=10, mismatches=8, unserved=1, by_feature={"g.n": 8}, worst=WORST,
    notes=["the code given is another"], seconds=1.25,
)  # fmt: skip


def raised(*arguments):
    """The error that a command ends with."""
    return CliRunner().invoke(main.app, [*arguments, "--store", "nowhere"]).exception


@pytest.mark.parametrize(
    ("text", "found"),
    [("fraud", ("fraud", None)), ("fraud@1", ("fraud", 1)), ("a@999999999", ("a", 999_999_999))],
)
def test_a_name_may_have_a_version(text, found):
    """Of a view or of a group."""
    assert named(text) == found


@pytest.mark.parametrize(
    "text",
    ["", "@1", "fraud@", "fraud@0", "fraud@-1", "fraud@01", "fraud@²", "fraud@1@2", "fraud@1x",
     "fraud@1" + "0" * 30],
)  # fmt: skip
def test_anything_else_is_no_name(text):
    """The largest version has nine digits, as in `group@2.column`."""
    with pytest.raises(SettingsError, match="NAME or NAME@VERSION"):
        named(text)


@pytest.mark.parametrize(
    ("split", "said"),
    [("{", "--split is no JSON"), ("[0.8]", "takes a JSON object"), ("0.8", "a JSON object")],
)
def test_a_split_is_a_json_object(split, said):
    """It is read before the store is."""
    error = raised("train", "fraud", "--out", "t.parquet", "--split", split)

    assert isinstance(error, SettingsError)
    assert said in str(error)


def test_backfill_asks_for_the_module_of_its_group():
    """Its code is what computes the windows."""
    error = raised("backfill", "card_tx@2")

    assert isinstance(error, SettingsError)
    assert "add --modules MODULE" in str(error)


def test_parity_is_one_line(capsys):
    """And nothing else where all is equal."""
    equal = Parity("fraud", 2, "c0de", rows=10, seconds=1.25)
    show_parity(equal)

    assert parity_line(equal) == (
        "parity: 10 answers of fraud@2 replayed by DuckDB, 0 mismatches, 0 unserved; 1.2 s"
    )
    assert capsys.readouterr().out == parity_line(equal) + "\n"


def test_differences_are_counted_by_feature_and_the_first_five_shown(capsys):
    """Notes go beside the output."""
    show_parity(PARITY)
    printed = capsys.readouterr()

    assert printed.out.startswith(parity_line(PARITY))
    assert "g.n" in printed.out
    assert printed.out.count("was served as") == 5
    assert printed.err == "the code given is another\n"
