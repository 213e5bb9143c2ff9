"""What strangers wrote, as text that is safe to print."""

from hypothesis import given
from hypothesis import strategies as st

from hofflight.cli.letter_text import (
    ascii_text,
    hex_lines,
    place_of,
    readable_header,
    shortened,
    visible,
)

TEXT = st.text(max_size=300)


@given(TEXT)
def test_nothing_that_is_shown_moves_a_cursor(text):
    assert visible(text).isprintable()
    assert visible(visible(text)) == visible(text)


@given(TEXT)
def test_a_cell_is_short(text):
    assert len(shortened(text)) <= 80
    assert shortened(text).isprintable()


def test_escapes_are_written_out():
    assert visible("\x1b[2J a\u202e") == "\\x1b[2J a\\u202e"
    assert visible("Zürich 東京") == "Zürich 東京"
    assert shortened(None) is None


@given(st.text(max_size=20), st.none() | st.binary(max_size=40))
def test_a_header_is_text_or_hex_and_loses_nothing(name, value):
    shown = readable_header(name, value)
    assert shown["name"] == name
    if value is None:
        assert shown == {"name": name, "text": None}
    elif "text" in shown:
        assert shown["text"].encode() == value
        assert shown["text"].isprintable()
    else:
        assert bytes.fromhex(shown["hex"]) == value


@given(st.binary(max_size=100))
def test_hex_lines_hold_every_byte_and_a_character_for_it(data):
    lines = list(hex_lines(data))
    shown = "".join(line[10:57] for line in lines)
    assert bytes.fromhex(shown) == data
    assert "".join(line[59:] for line in lines) == ascii_text(data)
    assert len(ascii_text(data)) == len(data)


def test_a_place_is_as_much_as_is_known():
    assert place_of({"topic": "t", "partition": 0, "offset": 5}) == "t/0/5"
    assert place_of({"topic": "t", "partition": None}) == "t"
    assert place_of({"topic": None}) is None
