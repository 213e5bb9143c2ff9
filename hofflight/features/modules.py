"""Feature groups and views from the modules that the operator named: the only way code comes in."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from hofflight.errors import DefinitionError, HofError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from hofflight.features.group import FeatureGroup
    from hofflight.features.stored import StoredGroup
    from hofflight.features.view import ViewDeclaration


def collect(targets: str) -> list[tuple[str, FeatureGroup]]:
    """(module, group) of every feature group in `a,b:name`, in the order of their declaration.

    Modules are looked for in the current directory first, as Python itself would.

    Raises:
        SettingsError: HOF-601, no such module or name, or importing it failed.
        DefinitionError: HOF-1xx, a declaration is wrong, or there is none.
    """
    found: dict[tuple[str, int], tuple[str, FeatureGroup]] = {}
    for target in filter(None, (part.strip() for part in targets.split(","))):
        module, _, attribute = target.partition(":")
        for group in groups_of(import_named(module), attribute):
            known = found.setdefault((group.name, group.version), (module, group))[1]
            if known.code_hash() != group.code_hash():
                msg = f"{group.name}@{group.version} is declared twice, differently"
                raise DefinitionError(msg, hint="give one of them another name or version")
    return list(found.values())


def collect_stored(targets: str) -> list[StoredGroup]:
    """Every `hof.stored_group(...)` of the modules in `a,b:name`, in the order of declaration."""
    from hofflight.features.stored import StoredGroup

    found: dict[tuple[str, int], StoredGroup] = {}
    for value in _values(targets):
        if isinstance(value, StoredGroup):
            known = found.setdefault((value.name, value.version), value)
            if known.code_hash() != value.code_hash():
                msg = f"{value.name}@{value.version} is declared twice, differently"
                raise DefinitionError(msg, hint="give one of them another name or version")
    return list(found.values())


def collect_views(targets: str) -> list[ViewDeclaration]:
    """Every `hof.view(...)` of the modules in `a,b:name`, in the order of their declaration.

    A target with a name asks for that one group, so it brings no view.
    """
    from hofflight.features.view import ViewDeclaration

    found: list[ViewDeclaration] = []
    for value in _values(targets):
        if isinstance(value, ViewDeclaration) and value not in found:
            found.append(value)
    return found


def _values(targets: str) -> Iterator[object]:
    """Everything at a name of the modules that were named as a whole."""
    for target in filter(None, (part.strip() for part in targets.split(","))):
        module, _, attribute = target.partition(":")
        if not attribute:
            yield from vars(import_named(module)).values()


def import_named(name: str) -> ModuleType:
    """The module of that name.

    Raises:
        SettingsError: HOF-601.
        DefinitionError: HOF-1xx, from a declaration in it.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except HofError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(name, error) from error
        msg = f"there is no module {name!r}"
        hint = "name it as `import` would (package.module), from the directory that holds it"
        raise SettingsError(msg, hint=hint) from error
    except Exception as error:
        raise _failed(name, error) from error


def versions_of(modules: str, group: str) -> list[FeatureGroup]:
    """Every version of a group that the modules declare.

    Raises: SettingsError (HOF-601), there is none; as `collect`.
    """
    found = [each for _, each in collect(modules) if each.name == group]
    if not found:
        msg = f"--modules {modules!r} declare no group {group!r}"
        raise SettingsError(msg)
    return found


def groups_of(module: ModuleType, attribute: str = "") -> list[FeatureGroup]:
    """The feature groups among a module's names, or the one of that name.

    Raises:
        SettingsError: HOF-601, no such name.
        DefinitionError: HOF-100, no feature group there.
    """
    from hofflight.features.group import FeatureGroup
    from hofflight.features.stored import StoredGroup

    if attribute and not hasattr(module, attribute):
        msg = f"module {module.__name__!r} has no name {attribute!r}"
        raise SettingsError(msg)
    values = [getattr(module, attribute)] if attribute else list(vars(module).values())
    groups = [value for value in values if isinstance(value, FeatureGroup)]
    if not groups and not any(isinstance(value, StoredGroup) for value in values):
        where = f"{module.__name__}:{attribute}" if attribute else module.__name__
        msg = f"{where} holds no feature group"
        raise DefinitionError(msg, hint="assign hof.feature_group(...) to a name of the module")
    return groups


def _failed(name: str, error: Exception) -> SettingsError:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    msg = f"importing {name!r} failed with {type(error).__name__}: {error}{where}"
    return SettingsError(msg, hint="HOF_DEBUG=1 shows the traceback")
