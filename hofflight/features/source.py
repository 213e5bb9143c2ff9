"""The source text that a feature's value depends on: what the code hash is made of.

A version never changes, so its hash must see more than the function's own lines: the constants it
reads and the helpers of its module that it calls. What it takes from other modules is known by the
package versions that the registry keeps beside the hash.
"""

from __future__ import annotations

import inspect
import textwrap
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_CONSTANTS: Final = (bool, int, float, str, bytes, type(None))


def source_of(function: Callable[..., Any]) -> str:
    """The function's source text, then constants and functions of its module that it uses.

    Of a callable object: its class's `__call__` and its own constants. Of something without
    Python source (C, an interactive session) the qualified name.
    """
    texts: dict[str, str] = {}
    constants: dict[str, str] = {}
    waiting: list[FunctionType] = []
    if isinstance(function, FunctionType):
        waiting.append(function)
    else:
        call = getattr(type(function), "__call__", None)  # noqa: B004 its source, not whether
        if isinstance(call, FunctionType):
            waiting.append(call)
            constants |= _constants(getattr(function, "__dict__", {}))
    while waiting:
        found = waiting.pop(0)
        if found.__qualname__ in texts:
            continue
        texts[found.__qualname__] = _text_of(found)
        used = inspect.getclosurevars(found)
        names = {**used.globals, **used.nonlocals}
        constants |= _constants(names)
        waiting += [
            value
            for _, value in sorted(names.items())
            if isinstance(value, FunctionType) and value.__module__ == found.__module__
        ]
    if not texts:
        return _text_of(function)
    return "\n".join([*texts.values(), *(f"# {n} = {constants[n]}" for n in sorted(constants))])


def _constants(names: dict[str, Any]) -> dict[str, str]:
    """Names of plain values; an object's text would differ from one process to the next."""
    return {name: repr(value) for name, value in names.items() if _is_constant(value)}


def _is_constant(value: object) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(_is_constant(item) for item in value)
    return isinstance(value, _CONSTANTS)


def _text_of(function: Callable[..., Any]) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return f"# no source: {getattr(function, '__qualname__', type(function).__qualname__)}"
