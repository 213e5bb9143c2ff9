"""A pinned set of jars: fetched by Maven once, into a cache that is checked before each use."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hofflight.errors import SettingsError
from hofflight.eventlog.lock import one_at_a_time
from hofflight.jars.java import find_java, java_environment

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_COPY: Final = [
    "--batch-mode", "--quiet", "--no-transfer-progress", "-Dstyle.color=never",
    "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies",
]  # fmt: skip
_NO_MAVEN: Final = "install Maven (Debian: maven)"
_NETWORK: Final = "give it a network, or a mirror or proxy in Maven's settings.xml, and try again"
_FETCH_S: Final = 900
_ANSWER_S: Final = 30
_SHOWN: Final = 600


@dataclass(frozen=True)
class PinnedJars:
    """What Maven is to fetch, and the only bytes that count as that.

    name: its folder in the cache, with the version. pom: the project that Maven resolves and whose
    dependencies it copies into `jars`. sums: each jar's sha256, as `sha256sum` writes them, in
    the order of the class path.
    """

    name: str
    pom: Traversable
    sums: Traversable

    def sha256s(self) -> dict[str, str]:
        """Each jar's name and sum."""
        lines = (line.split() for line in self.sums.read_text().splitlines())
        return {name: digest for digest, name in lines}


def jars_of(pinned: PinnedJars, folder: Path | None = None) -> list[Path]:
    """A set's jars in order, each one's sha256 checked; fetched where one is not as pinned.

    folder: instead of the user's cache. Processes may ask at once: one fetches, the others wait.
    Raises: SettingsError (HOF-601), jars must be fetched and Java, Maven or the network is missing,
    or what came is not what is pinned.
    """
    place = folder or cache_folder(pinned)
    if damage(pinned, place):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(place.with_name(f"{place.name}.lock"), wait=True):
                if damage(pinned, place):
                    _fetch(pinned, place)
        except OSError as error:
            msg = f"the cache of the jars {pinned.name} cannot be written: {error.strerror}"
            raise SettingsError(msg, hint="set XDG_CACHE_HOME to a folder of yours") from error
    return [place / name for name in pinned.sha256s()]


def cache_folder(pinned: PinnedJars) -> Path:
    """Where a set is for every checkout and environment of this user."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "hofflight" / pinned.name


def damage(pinned: PinnedJars, folder: Path) -> str:
    """The first jar that is missing or not the pinned bytes, and which of both; else "".

    All bytes are read, each time: a broker's 44 MB in 40 ms, beside its start of 2 s.
    """
    for name, sha256 in pinned.sha256s().items():
        try:
            with (folder / name).open("rb") as jar:
                found = hashlib.file_digest(jar, "sha256").hexdigest()
        except OSError as error:
            return f"{name}: {error.strerror}"
        if found != sha256:
            return f"{name} has another sha256 than the pinned one"
    return ""


def maven_version() -> str:
    """What `mvn` says it is.

    Raises: SettingsError (HOF-601), Maven is missing or does not run, or Java is missing.
    """
    found = re.search(
        r"Apache Maven (\d[\w.-]*)", _maven(["--version"], Path.cwd(), _ANSWER_S).stdout
    )
    if found is None:
        msg = "mvn does not say which Maven it is"
        raise SettingsError(msg, hint=_NO_MAVEN)
    return found[1]


def _fetch(pinned: PinnedJars, folder: Path) -> None:
    """Make the folder anew beside it, check it and put it there.

    Who runs from the folder before keeps the files that it has open, and finds the same bytes in
    those that it opens later.
    """
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as work:
        here = Path(work)
        (here / "pom.xml").write_bytes(pinned.pom.read_bytes())
        run = _maven(_COPY, here, _FETCH_S)
        if run.returncode:
            first = re.search(r"^\[ERROR\] (.+)$", run.stdout, re.MULTILINE)
            said = first[1] if first else run.stdout.strip()
            msg = f"Maven could not fetch the jars {pinned.name}: {said[:_SHOWN]}"
            raise SettingsError(msg, hint=_NETWORK)
        wrong = damage(pinned, here / "jars")
        if wrong:
            msg = f"Maven brought another jar than is pinned: {wrong}"
            raise SettingsError(msg, hint="delete that jar in Maven's own repository and try again")
        if folder.exists():
            folder.rename(here / "before")
        (here / "jars").rename(folder)


def _maven(arguments: list[str], folder: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    program = shutil.which("mvn")
    if program is None:
        msg = "Maven is missing"
        raise SettingsError(msg, hint=_NO_MAVEN)
    try:
        return subprocess.run(
            [program, *arguments],
            cwd=folder,
            env=java_environment(find_java()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except OSError as error:
        msg = f"mvn does not run: {error.strerror}"
        raise SettingsError(msg, hint=_NO_MAVEN) from error
    except subprocess.TimeoutExpired as error:
        msg = f"Maven was not done within {seconds} s"
        raise SettingsError(msg, hint=_NETWORK) from error
