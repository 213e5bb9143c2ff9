"""The Python of README and docs is code, so it runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PAGES = [
    str(page.relative_to(REPO))
    for page in [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
    if page.is_file() and "```python" in page.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page, tmp_path):
    """All blocks of a page are one program, run as a reader would who follows it from the top."""
    blocks = python_blocks((REPO / page).read_text(encoding="utf-8"))
    program = tmp_path / "page.py"
    program.write_text("\n\n".join(f"# {page}:{line}\n{code}" for line, code in blocks))
    run = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert run.returncode == 0, f"{page}\n{run.stdout}\n{run.stderr}"


def python_blocks(page):
    """The (line, code) of each ```python block; one marked `python no-run REASON` is left out."""
    blocks, code, info = [], None, ""
    for number, line in enumerate(page.splitlines(), start=1):
        if code is None and line.startswith("```"):
            info, code = line.removeprefix("```").split(), []
        elif code is not None and line.startswith("```"):
            if info == ["python"]:
                blocks.append((number - len(code), "\n".join(code)))
            elif info[:1] == ["python"]:
                reasoned = info[1] == "no-run" and len(info) > 2
                assert reasoned, f"line {number}: write `python no-run REASON`, not {info}"
            code = None
        elif code is not None:
            code.append(line)
    assert code is None, "a block is not closed"
    return blocks


def test_blocks_are_found_with_their_lines():
    """A block counts by its info string alone, whatever else the page holds."""
    page = "a\n```python\nx = 1\n```\n```sh\nls\n```\n```python no-run needs a server\ny\n```\n"

    assert python_blocks(page) == [(3, "x = 1")]


def test_a_block_that_does_not_run_says_why():
    """Otherwise `no-run` is where broken examples go to rest."""
    with pytest.raises(AssertionError, match="REASON"):
        python_blocks("```python no-run\ny\n```\n")
