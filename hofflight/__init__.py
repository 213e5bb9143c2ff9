"""hofflight: one raw event in, its whole feature vector out, in about a millisecond.

The way of an event: a client (1) sends raw rows over Arrow Flight to a server (2), which hands
them to the engine (4a). The engine transforms them, cuts windows from the entity's past and derives
columns (4), writes rows and answer to the event log (3) in one go, and the answer goes back.

```python
import pyarrow as pa, hofflight as hof

card_tx = hof.feature_group(
    "card_tx",
    version=1,
    key="card",
    event_time="ts",
    input={"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()},
    windows={"n_10m": hof.count().over("10m"), "mean_30d": hof.mean("amount").over("30d")},
    derive={"versus_mean": hof.col("amount") / hof.col("mean_30d")},
)
with hof.open("store/") as app:
    app.register(card_tx)
    vector = app.vector("card_tx", {"card": 7, "ts": 1_700_000_000_000_000, "amount": 9.5})
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hofflight import testing
    from hofflight.assemble import open_store as open
    from hofflight.client.client import connect, connect_async
    from hofflight.errors import HofError
    from hofflight.features.expression import Expression, col
    from hofflight.features.group import Context, FeatureGroup, feature_group
    from hofflight.features.stored import StoredGroup, stored_group
    from hofflight.features.view import view
    from hofflight.features.window import (
        count,
        count_distinct,
        first,
        last,
        max,
        mean,
        min,
        quantile,
        std,
        sum,
        top_k,
        var,
    )
    from hofflight.replay.training import report_of
    from hofflight.settings import Settings, load_settings
    from hofflight.spark_bridge.plan import spark
    from hofflight.wire.schema import TIMESTAMP
    from hofflight.wire.vector import Vector

# Public name -> (module, name there): loaded on first use, so that `import hofflight` stays light.
_PUBLIC = {
    "Context": ("features.group", "Context"),
    "Expression": ("features.expression", "Expression"),
    "FeatureGroup": ("features.group", "FeatureGroup"),
    "HofError": ("errors", "HofError"),
    "Settings": ("settings", "Settings"),
    "StoredGroup": ("features.stored", "StoredGroup"),
    "TIMESTAMP": ("wire.schema", "TIMESTAMP"),
    "Vector": ("wire.vector", "Vector"),
    "col": ("features.expression", "col"),
    "connect": ("client.client", "connect"),
    "connect_async": ("client.client", "connect_async"),
    "count": ("features.window", "count"),
    "count_distinct": ("features.window", "count_distinct"),
    "feature_group": ("features.group", "feature_group"),
    "first": ("features.window", "first"),
    "last": ("features.window", "last"),
    "load_settings": ("settings", "load_settings"),
    "max": ("features.window", "max"),
    "mean": ("features.window", "mean"),
    "min": ("features.window", "min"),
    "open": ("assemble", "open_store"),
    "quantile": ("features.window", "quantile"),
    "report_of": ("replay.training", "report_of"),
    "spark": ("spark_bridge.plan", "spark"),
    "std": ("features.window", "std"),
    "stored_group": ("features.stored", "stored_group"),
    "sum": ("features.window", "sum"),
    "testing": ("testing", ""),
    "top_k": ("features.window", "top_k"),
    "var": ("features.window", "var"),
    "view": ("features.view", "view"),
}

__all__ = [
    "TIMESTAMP",
    "Context",
    "Expression",
    "FeatureGroup",
    "HofError",
    "Settings",
    "StoredGroup",
    "Vector",
    "col",
    "connect",
    "connect_async",
    "count",
    "count_distinct",
    "feature_group",
    "first",
    "last",
    "load_settings",
    "max",
    "mean",
    "min",
    "open",
    "quantile",
    "report_of",
    "spark",
    "std",
    "stored_group",
    "sum",
    "testing",
    "top_k",
    "var",
    "view",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        msg = f"module 'hofflight' has no attribute {name!r}"
        raise AttributeError(msg)
    module, attribute = _PUBLIC[name]
    found = import_module(f"hofflight.{module}")
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
