"""Manifests: which files of a folder count, changed in one step, so that readers need no lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from hofflight.errors import SealDamaged
from hofflight.eventlog.directory import whole_file

if TYPE_CHECKING:
    from pathlib import Path


class HasFormat(Protocol):
    """What every manifest says first."""

    @property
    def format(self) -> int:
        """The number of its form."""
        ...


M = TypeVar("M", bound=HasFormat)


def read_manifest(path: Path, kind: type[M], what: str) -> M:
    """The manifest that counts now; an empty one where there is none. `what`: whose it is.

    Raises: SealDamaged (HOF-506), it does not decode, or is of a newer release.
    """
    empty = kind()
    try:
        found = msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return empty
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"the manifest of {what} is damaged: {error}"
        raise SealDamaged(msg, hint="restore manifest.json from a backup") from error
    if found.format != empty.format:
        msg = f"the manifest of {what} has format {found.format}, this reads {empty.format}"
        raise SealDamaged(msg, hint="upgrade hofflight")
    return found


def write_manifest(path: Path, manifest: HasFormat) -> None:
    """Make a manifest the one that counts: durable, then in place by one rename."""
    with whole_file(path) as fresh:
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
