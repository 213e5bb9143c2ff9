"""Served, logged, replayed: the whole way on hostile histories, live and sealed."""

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings

import hofflight as hof
from hofflight.testing.run import _split
from hofflight.testing.strategies import cases, requests
from tests.property.test_windows_oracle import bits

STORES = {"fast": 10, "ci": 60, "soak": 600}[os.environ.get("HYPOTHESIS_PROFILE", "ci")]


@settings(max_examples=STORES)
@given(cases(rows_max=40, windows_max=6, repeats=(1, 1, 3)), requests())
def test_what_was_served_is_what_is_trained(case, sizes):
    """Answers equal the SQL's replay within the tolerance, and the kernel's bit for bit."""
    group = case.group
    with tempfile.TemporaryDirectory() as folder, hof.open(Path(folder) / "store") as app:
        app.register(group)
        served = {}
        for number, part in enumerate(_split(case.table, sizes)):
            id_ = number.to_bytes(16, "big")
            vector = app.vector(group.name, part, request_id=id_)
            for row, values in enumerate(vector.batch.to_pylist()):
                served[id_, row] = values
            if number == 1:
                app.seal()

        parity = app.verify(group.name)
        assert (parity.rows, parity.mismatches) == (len(case.rows), 0), parity.worst

        trained = app.training_data(group.name, engine="kernel", ids=True)
        assert trained.num_rows == len(served)
        for row in trained.to_pylist():
            id_, place = row.pop("request_id"), row.pop("row")
            row.pop("late")
            for name, value in served[id_, place].items():
                assert bits(value) == bits(row[name]), (id_.hex(), place, name)
