"""PUBLIC HELPERS: run a group in a unit test, the brute-force oracle, hypothesis strategies."""

from hofflight.testing.run import Run, run

__all__ = ["Run", "run"]
