"""Kafka's jars: fetched by Maven once, into a cache that is checked before each use.

`python -m hofflight.testing.kafka_jars` does that ahead of the tests.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from hofflight.errors import HofError, SettingsError
from hofflight.eventlog.lock import one_at_a_time
from hofflight.testing.java import find_java, java_environment

KAFKA: Final = "kafka-4.3.0"
_COPY: Final = [
    "--batch-mode", "--quiet", "--no-transfer-progress", "-Dstyle.color=never",
    "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies",
]  # fmt: skip
_NO_MAVEN: Final = "install Maven (Debian: maven)"
_NETWORK: Final = "give it a network, or a mirror or proxy in Maven's settings.xml, and try again"
_FETCH_S: Final = 900
_ANSWER_S: Final = 30
_SHOWN: Final = 600


def kafka_jars(folder: Path | None = None) -> list[Path]:
    """The class path of a broker, each jar's sha256 checked; fetched where one is not as pinned.

    folder: instead of the user's cache. Processes may ask at once: one fetches, the others wait.
    Raises: SettingsError (HOF-601), jars must be fetched and Java, Maven or the network is missing,
    or what came is not what is pinned.
    """
    place = folder or cache_folder()
    if damage(place):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(place.with_name(f"{place.name}.lock"), wait=True):
                if damage(place):
                    _fetch(place)
        except OSError as error:
            msg = f"the cache of Kafka's jars cannot be written: {error.strerror}"
            raise SettingsError(msg, hint="set XDG_CACHE_HOME to a folder of yours") from error
    return [place / name for name in _pinned()]


def cache_folder() -> Path:
    """Where the jars of every checkout and environment of this user are."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "hofflight" / KAFKA


def damage(folder: Path) -> str:
    """The first jar that is missing or not the pinned bytes, and which of both; else "".

    All bytes are read, each time: 44 MB in 40 ms, beside a broker's start of 2 s.
    """
    for name, pinned in _pinned().items():
        try:
            with (folder / name).open("rb") as jar:
                found = hashlib.file_digest(jar, "sha256").hexdigest()
        except OSError as error:
            return f"{name}: {error.strerror}"
        if found != pinned:
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


def _fetch(folder: Path) -> None:
    """Make the folder anew beside it, check it and put it there.

    Who runs from the folder before keeps the files that it has open, and finds the same bytes in
    those that it opens later.
    """
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as work:
        here = Path(work)
        pom = importlib.resources.files("hofflight.testing") / "kafka_jars.xml"
        (here / "pom.xml").write_bytes(pom.read_bytes())
        run = _maven(_COPY, here, _FETCH_S)
        if run.returncode:
            first = re.search(r"^\[ERROR\] (.+)$", run.stdout, re.MULTILINE)
            said = first[1] if first else run.stdout.strip()
            msg = f"Maven could not fetch Kafka's jars: {said[:_SHOWN]}"
            raise SettingsError(msg, hint=_NETWORK)
        wrong = damage(here / "jars")
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


def _pinned() -> dict[str, str]:
    """Each jar's sha256, as `sha256sum` writes them."""
    sums = importlib.resources.files("hofflight.testing") / "kafka_jars.sha256"
    lines = (line.split() for line in sums.read_text().splitlines())
    return {name: digest for digest, name in lines}


if __name__ == "__main__":
    try:
        find_java()  # jars that are there already are of no use without it
        kafka_jars()
    except HofError as error:
        sys.exit(str(error))
