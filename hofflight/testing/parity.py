"""A pytest fixture that proves parity of your own features: served by the engine, replayed by SQL.

```python
pytest_plugins = ["hofflight.testing.parity"]  # in conftest.py


def test_card_tx_is_trained_as_it_is_served(parity):
    parity(card_tx, [{"card": 7, "ts": 0, "amount": 9.5}]).assert_equal()
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from hofflight.assemble import open_store
from hofflight.wire.rows import to_batch

if TYPE_CHECKING:
    from pathlib import Path

    from hofflight.features.group import FeatureGroup
    from hofflight.wire.parity import Parity
    from hofflight.wire.rows import Rows


class Prove(Protocol):
    """What the fixture `parity` is."""

    def __call__(self, group: FeatureGroup, rows: Rows, *, batch_rows: int = 1) -> Parity:
        """Serve rows in a store of their own, `batch_rows` a request, and compare with replay.

        Raises: BadRequest (HOF-2xx), as a server would answer.
        """
        ...


@pytest.fixture(name="parity")
def parity_of(tmp_path_factory: pytest.TempPathFactory) -> Prove:
    """Serves rows with a group and compares every answer with what DuckDB makes of the log."""

    def prove(group: FeatureGroup, rows: Rows, *, batch_rows: int = 1) -> Parity:
        return prove_parity(tmp_path_factory.mktemp("parity"), group, rows, batch_rows=batch_rows)

    return prove


def prove_parity(folder: Path, group: FeatureGroup, rows: Rows, *, batch_rows: int = 1) -> Parity:
    """What the fixture does, in a folder of the caller's."""
    batch = to_batch(rows, group.input)
    with open_store(folder / "store") as app:
        app.register(group)
        for start in range(0, batch.num_rows, batch_rows):
            app.vector(group.name, batch.slice(start, batch_rows))
        return app.verify(group.name)
