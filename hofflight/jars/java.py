"""Finds a Java that is new enough for Kafka's broker and for Spark: both are built for 17."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAJOR_MIN: Final = 17
_INSTALL: Final = f"install Java {MAJOR_MIN} or newer (Debian: default-jre-headless)"
# Every JVM takes options out of these, and says so among its answers.
_OPTIONS: Final = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
_ANSWER_S: Final = 30


@dataclass(frozen=True)
class Java:
    """A Java as it describes itself; `home` holds `bin/java`."""

    home: Path
    version: str

    @property
    def program(self) -> Path:
        """The launcher itself, behind whatever links or scripts stand in PATH."""
        return self.home / "bin" / "java"

    @property
    def major(self) -> int:
        """17 for `17.0.15`, 21 for `21-ea`, 8 for `1.8.0_392`."""
        number = re.match(r"(?:1\.)?(\d+)", self.version)
        return int(number[1]) if number else 0


def find_java() -> Java:
    """The Java of JAVA_HOME, else that of PATH, whichever is the first that is new enough.

    Raises: SettingsError (HOF-601), there is none, or only older ones.
    """
    old: Java | None = None
    for program in _programs():
        java = _described(program)
        if java is not None and java.major >= MAJOR_MIN:
            return java
        old = old or java
    msg = f"Java {old.version} is too old" if old else "Java is missing"
    raise SettingsError(msg, hint=_INSTALL)


def java_environment(java: Java) -> dict[str, str]:
    """Our own environment for programs that look for Java themselves."""
    kept = {name: value for name, value in os.environ.items() if name not in _OPTIONS}
    return kept | {"JAVA_HOME": str(java.home)}


def _programs() -> Iterator[str]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield str(Path(home) / "bin" / "java")
    found = shutil.which("java")
    if found:
        yield found


def _described(program: str) -> Java | None:
    """What a Java says of itself; None where it does not run."""
    try:
        answer = subprocess.run(
            [program, "-XshowSettings:properties", "-version"],
            env={name: value for name, value in os.environ.items() if name not in _OPTIONS},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_ANSWER_S,
            check=True,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None
    said = dict(re.findall(r"^\s*(java\.home|java\.version) = (.+?)\s*$", answer, re.MULTILINE))
    if len(said) < 2:  # noqa: PLR2004  home and version
        return None
    return Java(Path(said["java.home"]), said["java.version"])
