"""A view's vector as the inputs of an MLflow model signature, and whether a signature fits it."""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from hofflight.errors import SettingsError, SignatureMismatch, WrongType
from hofflight.wire.schema import TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType

# The smallest type of MLflow's that holds every value; it has neither unsigned nor narrow integers.
_TYPES: Final = {
    pa.int64(): "long", pa.uint32(): "long",
    pa.int32(): "integer", pa.int16(): "integer", pa.int8(): "integer",
    pa.uint16(): "integer", pa.uint8(): "integer",
    pa.float64(): "double", pa.float32(): "float",
    pa.bool_(): "boolean", pa.string(): "string", pa.binary(): "binary",
    TIMESTAMP: "datetime", pa.date32(): "datetime",
}  # fmt: skip
_SHOWN: Final = 8  # a message is for reading


def signature_of(vector: pa.Schema) -> ModelSignature:
    """Inputs only: a named column for each of the vector's, in its order, none of them required.

    "Not required" lets MLflow take a frame without the column; it lets no null through. What
    `predict` of a loaded model (MLflow 3.17) makes of a null:

    - double, float: NaN. Dates: NaT.
    - integers: refused, in every kind of frame. `.to_float()` in the view's group makes it double.
    - the rest: kept as None or NaN in `vector.batch.to_pandas()`. From the Arrow-backed
      `vector.to_pandas()` a null text becomes the text "<NA>", and bools and lists fail.

    Binary is refused from `vector.to_pandas()` even without a null, and a timestamp in UTC from
    both frames: MLflow wants it without its zone, `column.dt.tz_localize(None)`.

    Raises: SettingsError (HOF-601), the extra `mlflow` is not installed; WrongType (HOF-103), a
        column that no vector has.
    """
    try:
        from mlflow.models.signature import ModelSignature
        from mlflow.types.schema import ColSpec, Schema
    except ModuleNotFoundError as error:
        msg = f"a model's signature needs the extra `mlflow`: {error.name} is not installed"
        raise SettingsError(msg, hint="pip install 'hofflight[mlflow]'") from None
    columns: list[Any] = [
        ColSpec(_type_of(field.name, field.type), field.name, required=False) for field in vector
    ]
    return ModelSignature(inputs=Schema(columns))


def check_signature(vector: pa.Schema, signature: ModelSignature | None, view: str) -> None:
    """Refuse a signature whose inputs are not the view's columns in names, order and types.

    Whether a column is required is not compared, since a vector has every column; nor are outputs
    and params. None is what a model that was logged without a signature has.

    Raises: SignatureMismatch (HOF-219), naming each column that differs; else as `signature_of`.
    """
    expected = signature_of(vector).inputs.inputs
    differences = list(_differences(expected, _columns_of(signature, view)))
    if not differences:
        return
    shown = differences[:_SHOWN]
    if len(differences) > _SHOWN:
        shown.append(f"and {len(differences) - _SHOWN} more")
    msg = f"the signature is not that of view {view!r}: {'; '.join(shown)}"
    hint = f"train on training_data({view!r}), or declare a view with the columns of the model"
    raise SignatureMismatch(msg, hint=hint)


def _type_of(name: str, column_type: pa.DataType) -> DataType | Array:
    from mlflow.types.schema import Array, DataType

    if pa.types.is_list(column_type):
        return Array(_type_of(name, column_type.value_type))
    if column_type not in _TYPES:
        raise WrongType(f"column {name!r} is {column_type}, for which MLflow has no type")
    return DataType[_TYPES[column_type]]


def _columns_of(signature: ModelSignature | None, view: str) -> list[ColSpec]:
    """The named columns of a signature.

    Raises: SignatureMismatch (HOF-219), it has none.
    """
    from mlflow.models.signature import ModelSignature

    hint = f"log the model with signature=app.signature({view!r})"
    if signature is None:
        raise SignatureMismatch("the model has no signature", hint=hint)
    if not isinstance(signature, ModelSignature):
        msg = f"a signature is a mlflow.models.ModelSignature, got {type(signature).__name__}"
        raise SignatureMismatch(msg, hint=hint)
    if not signature.inputs:
        raise SignatureMismatch("the signature has no inputs", hint=hint)
    if signature.inputs.is_tensor_spec():
        msg = f"the signature's inputs are tensors, view {view!r} gives named columns"
        raise SignatureMismatch(msg, hint=hint)
    if not signature.inputs.has_input_names():
        msg = f"the signature's columns have no names, those of view {view!r} do"
        raise SignatureMismatch(msg, hint=hint)
    return signature.inputs.inputs


def _differences(expected: list[ColSpec], got: list[ColSpec]) -> Iterator[str]:
    wanted = {str(column.name): column.type for column in expected}
    came = {str(column.name): column.type for column in got}
    for name, times in Counter(column.name for column in got).items():
        if times > 1:
            yield f"column {name!r} is there {times} times"
    surplus = [name for name in came if name not in wanted]
    for name in wanted:
        if name not in came:
            near = get_close_matches(name, surplus, n=1)
            yield f"column {name!r} is missing" + (f" ({near[0]!r} is there)" if near else "")
    for name in surplus:
        yield f"column {name!r} is not in the view"
    for name, column_type in wanted.items():
        if name in came and came[name] != column_type:
            yield f"column {name!r} must be {column_type!r}, is {came[name]!r}"
    places, places_came = _places(wanted, came), _places(came, wanted)
    for name, place in places.items():
        if places_came[name] != place:
            yield f"column {name!r} must come {place}, comes {places_came[name]}"


def _places(columns: dict[str, Any], others: dict[str, Any]) -> dict[str, str]:
    """Where each column that both have stands, among those."""
    both = [name for name in columns if name in others]
    places = ["first", *(f"after {name!r}" for name in both)]
    return dict(zip(both, places, strict=False))
