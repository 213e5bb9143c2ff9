"""What commands print: JSON without loss, tables without cuts, progress that a log can bear."""

import io
import json

import pytest

from hofflight.cli import main, output
from hofflight.cli.registration import change_lines
from hofflight.errors import InvalidName, Overloaded, SettingsError
from hofflight.features.records import Change


def test_json_is_one_line_with_bytes_as_hex(capsys):
    output.print_json({"id": b"\x01\xff", "nan": float("nan"), "big": 2**63 - 1})

    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed) == {"id": "01ff", "nan": None, "big": 2**63 - 1}


def test_a_table_elsewhere_than_on_a_terminal_cuts_nothing(capsys):
    long = "x" * 300

    output.print_table("title", ("a", "b"), [[long, None], [0.1 + 0.2, True]])

    printed = capsys.readouterr().out
    assert long in printed
    assert "null" in printed
    assert " 0.3 " in printed


def test_a_table_shows_brackets_as_they_are(capsys):
    output.print_table("", ("type",), [["timestamp[us, tz=UTC]"]])

    assert "timestamp[us, tz=UTC]" in capsys.readouterr().out


def test_progress_elsewhere_than_on_a_terminal_is_a_line_every_tenth(capsys):
    with output.progress("streaming", 1_000) as advance:
        for _ in range(100):
            advance(10)

    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line.split(", ") for line in printed.err.splitlines()]
    assert [done for done, _ in lines] == [
        f"streaming: {done} of 1000" for done in range(100, 1_001, 100)
    ]
    assert all(rate.removesuffix("/s").replace(",", "").isdigit() for _, rate in lines)


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    with output.progress("streaming", 10) as advance:
        advance(10)

    assert "10/10" in terminal.getvalue()


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (0, "1970-01-01T00:00:00+00:00"),
        (1_700_000_000_000_001, "2023-11-14T22:13:20.000001+00:00"),
        (-1, "1969-12-31T23:59:59.999999+00:00"),
    ],
)
def test_times_are_iso_8601_to_the_microsecond(time_us, text):
    assert output.time_text(time_us) == text


def test_changes_are_lines_and_a_diff_is_indented():
    changes = [
        Change("group", "a", 1, "created"),
        Change("group", "b", 2, "changed", "-old\n+new"),
        Change("group", "c", 3, "unchanged"),
    ]

    assert change_lines(changes) == [
        "+ group a@1 created",
        "! group b@2 changed",
        "    -old",
        "    +new",
        "= group c@3 unchanged",
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("a"), 2),
        (InvalidName("b"), 2),
        (Overloaded("c", hint="wait"), 1),
        (ValueError("d"), 1),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error, code, capsys):
    assert main.report(error) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert str(error) in printed.err
    assert printed.err.count("\n") == 1
