"""`hof doctor`: what of this machine decides how hofflight runs here."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hofflight import limits
from hofflight.cli.options import Json
from hofflight.cli.output import print_json, print_table, time_text
from hofflight.clock import SystemClock
from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hofflight.jars.maven import PinnedJars

_PACKAGES: Final = (
    "hofflight", "pyarrow", "numpy", "duckdb", "grpcio", "protobuf", "msgspec", "orjson",
    "lmdb", "pandas", "polars", "pyspark", "aiokafka", "redis", "psycopg",
    "deltalake", "mlflow-skinny",
)  # fmt: skip
_SYNCS: Final = 30
_FREE_BYTES_MIN: Final = 4 * limits.segment_bytes_max
# A clock that was never set says 1970 or so; this release is younger than mid 2025.
_CLOCK_US_MIN: Final = 1_750_000_000_000_000
_GET_PYSPARK: Final = "pip install 'hofflight[spark]'"
# What a worker of Spark's is asked: its version, and whether it can import the functions' package.
_ASKED: Final = (
    "import sys, importlib.util as u; "
    "print('%d.%d' % sys.version_info[:2], u.find_spec('hofflight') is not None)"
)
_ANSWER_S: Final = 30
# A log record of one row is about this long.
_RECORD: Final = bytes(512)


def doctor(
    store: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A store; else the current directory.")
    ] = None,
    json: Json = False,
) -> None:
    """Show versions, the cost of a sync to disk, clock and free space; exit 1 on a problem."""
    folder = store or Path.cwd()
    if not folder.is_dir():
        msg = f"{folder.name!r} is not a directory"
        raise SettingsError(msg)
    found = examined(folder)
    if store is not None:
        found["online_store"], problem = online_store(folder)
        found["problems"] += problem
    if json:
        print_json(found)
    else:
        packages = found["packages"].items()
        rows = [(k, v) for k, v in found.items() if k not in ("packages", "problems")]
        print_table("", ("what", "value"), [*rows, *packages])
        for problem in found["problems"]:
            print(f"problem: {problem}")
    if found["problems"]:
        raise typer.Exit(1)


def examined(folder: Path) -> dict[str, Any]:
    """Everything that `hof doctor` says about this machine and a directory of it."""
    free = shutil.disk_usage(folder).free
    now_us = SystemClock.wall_us()
    sync_us = sync_costs_us(folder)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "sync_us_p50": round(statistics.median(sync_us), 1),
        "sync_us_max": round(max(sync_us), 1),
        "clock": time_text(now_us),
        "clock_resolution_ns": round(time.get_clock_info("perf_counter").resolution * 1e9),
        "free_bytes": free,
        **java_parts(),
        **spark_parts(),
        "packages": {name: found for name in _PACKAGES if (found := _installed(name))},
        "problems": problems(free_bytes=free, now_us=now_us, python=sys.version_info[:2]),
    }


def java_parts() -> dict[str, str]:
    """What the broker of `hofflight.testing` and the Spark bridge need, or how to get it.

    Facts, not problems: who uses neither need not have it.
    """
    from hofflight.jars.java import find_java
    from hofflight.jars.maven import maven_version
    from hofflight.jars.pinned import SETS

    return {
        "java": _or_hint(lambda: find_java().version),
        "maven": _or_hint(maven_version),
        **{f"{name}_jars": _jars(name, pinned) for name, pinned in SETS.items()},
    }


def spark_parts() -> dict[str, str]:
    """What else the Spark bridge needs, or how to get it; facts, as above."""
    return {
        "spark": _or_hint(lambda: pyspark_version(_installed("pyspark"))),
        "pyspark_python": _or_hint(lambda: worker_python(os.environ.get("PYSPARK_PYTHON", ""))),
    }


def pyspark_version(found: str) -> str:
    """The installed pyspark, "" where there is none, as one that the bridge works with.

    Raises: SettingsError (HOF-601), it is missing or another.
    """
    from hofflight.spark_bridge.session import MAJOR

    if not found.startswith(f"{MAJOR}."):
        msg = f"pyspark {found} is not {MAJOR}.x" if found else "pyspark is missing"
        raise SettingsError(msg, hint=_GET_PYSPARK)
    return f"pyspark {found}"


def worker_python(named: str) -> str:
    """What Spark's Python workers run: what PYSPARK_PYTHON names, else what the bridge sets it to.

    Raises: SettingsError (HOF-601), workers could not run there what this interpreter sends them.
    """
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not named:
        return f"not set, so the bridge sets it to this interpreter, {sys.executable}"
    hint = f"unset PYSPARK_PYTHON, or let it name a Python {ours} that has hofflight"
    # Links are not followed: two environments are often links to one interpreter.
    program = shutil.which(named)
    if program is None:
        msg = f"{named!r} is no program"
        raise SettingsError(msg, hint=hint)
    if Path(program).absolute() == Path(sys.executable):
        return f"this interpreter, {sys.executable}"
    theirs, has_hofflight = _asked(program, hint)
    if theirs != ours:
        msg = f"{named!r} is Python {theirs}, this one is {ours}, and Spark wants both the same"
        raise SettingsError(msg, hint=hint)
    if not has_hofflight:
        msg = f"{named!r} has no hofflight"
        raise SettingsError(msg, hint=hint)
    return f"{named}, which has hofflight"


def online_store(folder: Path) -> tuple[str, list[str]]:
    """What the online store of a store says, and a problem where it is not well."""
    from hofflight.assemble_online import open_online
    from hofflight.eventlog.store import Store
    from hofflight.online.lookups import Lookups
    from hofflight.settings import load_settings

    settings = load_settings()
    path = Store(folder).online
    if not settings.online.url and not path.exists():
        return "lmdb, nothing was loaded", []
    with closing(Lookups(open_online(settings, path), settings.online.timeout_ms)) as lookups:
        health = lookups.run(lookups.store.health())
    return health.detail, [] if health.ok else [f"the online store: {health.detail}"]


def problems(*, free_bytes: int, now_us: int, python: tuple[int, ...]) -> list[str]:
    """What should be mended before anything is served from here."""
    found = []
    if free_bytes < _FREE_BYTES_MIN:
        found.append(f"{free_bytes} bytes are free, four log segments need {_FREE_BYTES_MIN}")
    if not _CLOCK_US_MIN < now_us < limits.event_time_us_max:
        found.append(f"the clock says {time_text(now_us)}")
    if python < (3, 11):
        found.append("Python is older than 3.11")
    return found


def sync_costs_us(folder: Path) -> list[float]:
    """Microseconds of append and fdatasync, several times: what `durability=batch` waits for.

    Raises: SettingsError (HOF-601), the directory cannot be written.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            costs = []
            for _ in range(_SYNCS):
                start_ns = time.perf_counter_ns()
                os.write(file.fileno(), _RECORD)
                os.fdatasync(file.fileno())
                costs.append((time.perf_counter_ns() - start_ns) / 1_000)
            return costs
    except OSError as error:
        msg = f"{folder.name!r} cannot be written: {error.strerror}"
        raise SettingsError(msg) from error


def _jars(name: str, pinned: PinnedJars) -> str:
    from hofflight.jars.maven import cache_folder, damage

    wrong = damage(pinned, cache_folder(pinned))
    if wrong:
        return f"to be fetched by Maven, {wrong}: python -m hofflight.jars {name}"
    return "in the cache"


def _asked(program: str, hint: str) -> tuple[str, bool]:
    """The version of another Python, and whether it has hofflight."""
    try:
        answer = subprocess.run(
            [Path(program).absolute(), "-c", _ASKED],
            cwd="/",  # where it is not our checkout that it finds
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_S,
            check=True,
        ).stdout.split()
        theirs, has_hofflight = answer
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        msg = f"{program!r} does not answer as a Python does"
        raise SettingsError(msg, hint=hint) from error
    return theirs, has_hofflight == "True"


def _or_hint(fact: Callable[[], str]) -> str:
    try:
        return fact()
    except SettingsError as error:
        return f"{error.message}: {error.hint}"


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
