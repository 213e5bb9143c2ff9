"""Strangers' bytes as text that is safe on a terminal: nothing in it moves the cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LINE: Final = 16
_SHORT: Final = 80


def visible(text: str) -> str:
    """Text whose characters can all be seen; others are written as Python writes them."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def shortened(text: str | None) -> str | None:
    """The same, and not longer than a table's cell should be."""
    if text is None:
        return None
    shown = visible(text[: 2 * _SHORT])
    return shown if len(shown) <= _SHORT else f"{shown[: _SHORT - 3]}..."


def readable_header(name: str, value: bytes | None) -> dict[str, str | None]:
    """A header as JSON: its value as `text` where it is text, else as `hex`."""
    if value is None:
        return {"name": name, "text": None}
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {"name": name, "hex": value.hex()}
    return (
        {"name": name, "text": text} if text.isprintable() else {"name": name, "hex": value.hex()}
    )


def place_of(entry: Mapping[str, Any]) -> str | None:
    """`topic/partition/offset`, as far as it is known."""
    parts = [entry.get(name) for name in ("topic", "partition", "offset")]
    return "/".join(visible(str(part)) for part in parts if part not in (None, "")) or None


def ascii_text(data: bytes) -> str:
    """One character a byte: itself where it is ASCII that can be seen, else a dot."""
    text = data.decode("ascii", errors="replace")
    return "".join(c if c.isascii() and c.isprintable() else "." for c in text)


def hex_lines(data: bytes) -> Iterator[str]:
    """Bytes as lines of sixteen: where, in hex, and as text."""
    for at in range(0, len(data), _LINE):
        line = data[at : at + _LINE]
        yield f"{at:08x}  {line.hex(' '):<{3 * _LINE - 1}}  {ascii_text(line)}"
