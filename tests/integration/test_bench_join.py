"""`benchmarks/bench_join.py`, small: it runs, and prints the figures that it promises."""

import json
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]
RATIOS = ("embedded_ratio_p50", "in_process_ratio_p50", "valkey_added_ratio_1",
          "valkey_added_ratio_25")  # fmt: skip


def test_the_join_benchmark_prints_its_ratios_with_their_floors():
    """How large they are is for a quiet machine and many more requests to say."""
    run = subprocess.run(
        [sys.executable, "benchmarks/bench_join.py", "--json", "--blocks", "2", "--requests", "20"],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)

    assert all(found[name] > 0 for name in ("embedded_ratio_p50", "in_process_ratio_p50"))
    assert all(len(found[f"{name}_spread"]) == 2 for name in RATIOS)
    assert all(found[f"valkey_{lane}_us"]["p50"] > 0 for lane in ("plain", "join1", "join25"))
    assert all(found[f"valkey_{lane}_us"]["p50"] > 0 for lane in ("mget1", "mget25", "hot_mget1"))
