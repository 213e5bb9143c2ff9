"""What the house tests look at: the tracked text, and every Python file parsed once."""

import ast
import functools
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
GENERATED = {"hofflight/wire/flight_pb2.py"}


class House:
    """The checkout, read only. Paths go in and come out relative to its root."""

    root = REPO

    @functools.cached_property
    def files(self) -> list[str]:
        """Every file git tracks or would track, so a new file is judged before it is committed."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPO,
            capture_output=True,
            check=True,
        ).stdout.decode()
        return sorted(p for p in set(listed.split("\0")) if p and (REPO / p).is_file())

    def python(self, *rooms: str) -> list[str]:
        """The hand-written Python files below `rooms` (all of `hofflight/` when none is named)."""
        below = tuple(f"{room}/" for room in rooms or ("hofflight",))
        return [
            p
            for p in self.files
            if p.startswith(below) and p.endswith(".py") and p not in GENERATED
        ]

    def text(self, path: str) -> str:
        return (REPO / path).read_text(encoding="utf-8")

    @functools.cache  # noqa: B019  one House a session
    def tree(self, path: str) -> ast.Module:
        return ast.parse(self.text(path), path)

    def imports(self, path: str) -> set[str]:
        """Every module a file imports, also inside functions; `from a import b` is a and a.b."""
        found = set()
        for node in ast.walk(self.tree(path)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        return found


@pytest.fixture(scope="session")
def house() -> House:
    return House()
