"""What `app.apply` gives, and how it finds the code that another process needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.engine.embedded import Engine
    from hofflight.features.records import GroupRecord
    from hofflight.spark_bridge.plan import SparkEngine

_NOWHERE = frozenset({"", "__main__"})


class Applied(Protocol):
    """Groups at work where `App.apply` put them. As a context manager it stops them at its end."""

    groups: tuple[str, ...]

    def __enter__(self) -> Self:
        """Nothing to do: they are at work."""
        ...

    def __exit__(self, *_: object) -> None:
        """Stop."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether they are still at work."""
        ...

    @property
    def exit_code(self) -> int | None:
        """What their process ended with; None as long as it runs, and where there is none."""
        ...

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until they have ended; whether they have, within the time.

        Raises: HofError, what ended them, unless `stop` did; WorkerStopped (HOF-514) where that
            is not known.
        """
        ...

    def stop(self) -> None:
        """End them in good order, and wait for it: for a minute, then they are made to end."""
        ...


class StartSpark(Protocol):
    """Starts an application for groups that the modules declare, and waits until it is ready."""

    def __call__(
        self, groups: Sequence[str], modules: str, engine: SparkEngine, *,
        save_features: bool | None,
    ) -> Applied:  # fmt: skip
        """Raises: HofError, as the application says it; WorkerStopped (HOF-514)."""
        ...


class Embedded:
    """Groups that the app serves itself, from `register` until it is closed: nothing to stop."""

    exit_code = None

    def __init__(self, groups: Sequence[str], is_open: Callable[[], bool]) -> None:
        self.groups = tuple(groups)
        self._is_open = is_open

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __repr__(self) -> str:
        return f"<embedded {', '.join(self.groups)}>"

    @property
    def is_running(self) -> bool:
        return self._is_open()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether the app is closed, at once: there is nothing else to wait for."""
        return not self.is_running

    def stop(self) -> None:
        """Nothing: the app goes on to serve them."""


def modules_of(names: Sequence[str], engine: Engine) -> str:
    """The modules of groups, by which another process finds their code: `a,b`.

    Those that declared the versions loaded here; of a group without any its newest version's.

    Raises: SettingsError (HOF-601), one was declared where no other process can import it.
    """
    loaded = {(v.group, v.group_version) for v in engine.views()}
    records = engine.registry.groups()
    found = []
    for name in names:
        versions = [record for record in records if record.name == name]
        here = [record for record in versions if (name, record.version) in loaded]
        found += [_declared_in(record, engine) for record in here]
        if not here:
            found.append(_importable(versions[-1], versions[-1].module))
    return ",".join(dict.fromkeys(found))


def _declared_in(record: GroupRecord, engine: Engine) -> str:
    """The code at hand knows better than the registry: it may have moved since it was kept."""
    module = engine.group(record.name, record.version).module
    return _importable(record, record.module if module in _NOWHERE else module)


def _importable(record: GroupRecord, module: str) -> str:
    if module in _NOWHERE:
        msg = f"{record.name}@{record.version} is declared in a notebook or a program itself"
        hint = (
            "put it into a file such as features.py, where another process can import it, and "
            'import it from there; or name that file: hof.spark(modules="features")'
        )
        raise SettingsError(msg, hint=hint)
    return module
