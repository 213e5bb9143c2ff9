"""What a Spark application of the tests answers: the conformance cases, and functions that harm."""

import os
import time

import pyarrow as pa

import hofflight as hof
from tests.conformance.test_engines import CASES, INPUT

LATES = sorted({case.late for case in CASES})


def named(case):
    """The group and the window of a case."""
    return f"cases_{case.late}", f"w{CASES.index(case)}"


for late in LATES:
    globals()[f"cases_{late}"] = hof.feature_group(
        f"cases_{late}", version=1, key="k", event_time="ts", input=INPUT, late=late,
        windows={named(case)[1]: case.window for case in CASES if case.late == late},
    )  # fmt: skip

derived = hof.feature_group(
    "derived", version=1, key=("k", "s"), event_time="ts", input=INPUT, late="1s",
    output={"double": hof.col("x") * 2}, windows={"n": hof.count().over("1h")},
    derive={"per": hof.col("double") / hof.col("n"), "none": hof.col("n").is_null()},
)  # fmt: skip


@hof.feature_group(
    "frames", version=1, key="k", event_time="ts", input=INPUT, mode="pandas",
    output={"half": pa.float64(), "is_a": pa.bool_()},
    windows={"sum": hof.sum("half").over("1h"), "n_a": hof.count(where="is_a").over("1h")},
)  # fmt: skip
def frames(frame):
    """Arrow-backed pandas columns; the values 666 and 667 harm whoever computes them."""
    if (frame["x"] == 666).any():
        os._exit(9)
    if (frame["x"] == 667).any():
        time.sleep(60)
    return {"half": frame["x"] / 2, "is_a": frame["s"] == "a"}


NAMES = [*(f"cases_{late}" for late in LATES), "derived", "frames"]
