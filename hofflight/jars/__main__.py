"""`python -m hofflight.jars [kafka] [spark]`: fetch jars ahead of use; all sets without a name."""

from __future__ import annotations

import sys

from hofflight.errors import HofError, SettingsError
from hofflight.jars.java import find_java
from hofflight.jars.maven import jars_of
from hofflight.jars.pinned import SETS


def main(names: list[str]) -> None:
    """Have each named set in the user's cache, whole.

    Raises: SettingsError (HOF-601), a name is none of ours, Java is missing, or as `jars_of`.
    """
    unknown = sorted(set(names) - set(SETS))
    if unknown:
        msg = f"there are no jars called {unknown[0]!r}"
        raise SettingsError(msg, hint=f"name some of {', '.join(SETS)}, or none for all")
    find_java()  # jars that are there already are of no use without it
    for name in names or SETS:
        jars_of(SETS[name])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except HofError as error:
        sys.exit(str(error))
