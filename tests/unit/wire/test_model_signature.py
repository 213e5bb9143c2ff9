"""A view's vector and MLflow: the signature says what is served, and a check finds what is not."""

import json
import os
import subprocess
import sys
import warnings
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from hofflight.errors import BadRequest, SignatureMismatch, WrongType
from hofflight.wire.envelope import AnswerMeta
from hofflight.wire.model_signature import check_signature, signature_of
from hofflight.wire.schema import COLUMN_TYPES, TIMESTAMP
from hofflight.wire.vector import vector_of

REPO = Path(__file__).parents[2]
TYPES = {
    pa.int64(): "long",
    pa.uint32(): "long",
    pa.int32(): "integer",
    pa.int16(): "integer",
    pa.int8(): "integer",
    pa.uint16(): "integer",
    pa.uint8(): "integer",
    pa.float64(): "double",
    pa.float32(): "float",
    pa.bool_(): "boolean",
    pa.string(): "string",
    pa.binary(): "binary",
    TIMESTAMP: "datetime",
    pa.date32(): "datetime",
}
VECTOR = pa.schema({"tx.n": pa.int64(), "tx.mean": pa.float64(), "tx.last": pa.string()})
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def silent_mlflow(monkeypatch, tmp_path):
    """No telemetry, and a folder to write into that must stay empty."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def predict():
    """What a loaded model with a signature is given, once MLflow has let a frame through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow.pyfunc warns of type hints of its own
        from mlflow.models import Model
        from mlflow.pyfunc import PyFuncModel

    class Echo:
        def predict(self, frame, params=None):
            return frame

    def through(signature, frame):
        meta = Model(signature=signature)
        meta.add_flavor("python_function", loader_module="none")
        return PyFuncModel(meta, Echo()).predict(frame)

    return through


def answer(column_type, values):
    """A served vector of one column."""
    batch = pa.record_batch({"g.x": pa.array(values, column_type)})
    return vector_of(batch, AnswerMeta("OK", id=b"i" * 16, view="v", version=1))


def signature(*columns):
    """A signature by hand: (type, name) of each column."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(inputs=Schema([ColSpec(*column) for column in columns]))


def refusal(given, vector=VECTOR):
    with pytest.raises(SignatureMismatch) as caught:
        check_signature(vector, given, "fraud")
    return caught.value


# --- what the signature is ---


def test_every_type_that_a_column_may_have_is_tried_here():
    assert set(TYPES) == COLUMN_TYPES


@pytest.mark.parametrize(("column_type", "name"), TYPES.items(), ids=map(str, TYPES))
def test_a_column_has_its_type(column_type, name):
    (column,) = signature_of(pa.schema({"g.x": column_type})).inputs.to_dict()

    assert column == {"type": name, "name": "g.x", "required": False}


@pytest.mark.parametrize(("column_type", "name"), TYPES.items(), ids=map(str, TYPES))
def test_a_list_is_an_array_of_its_type(column_type, name):
    (column,) = signature_of(pa.schema({"g.x": pa.list_(column_type)})).inputs.to_dict()

    items = {"type": name}
    assert column == {"type": "array", "items": items, "name": "g.x", "required": False}


def test_columns_are_in_the_order_of_the_vector():
    made = signature_of(VECTOR)

    assert made.inputs.input_names() == VECTOR.names
    assert made.outputs is None
    assert made.params is None


def test_a_type_that_no_vector_has_is_refused_by_name():
    with pytest.raises(WrongType, match=r"'g\.x' is decimal128\(9, 2\)"):
        signature_of(pa.schema({"g.x": pa.decimal128(9, 2)}))


def test_a_signature_survives_json():
    from mlflow.models import ModelSignature

    columns = {f"g.c{place}": column_type for place, column_type in enumerate(TYPES)}
    vector = pa.schema({**columns, "g.top": pa.list_(pa.string())})
    made = signature_of(vector)
    read = ModelSignature.from_dict(json.loads(json.dumps(made.to_dict())))

    assert read == made
    check_signature(vector, read, "fraud")


# --- what MLflow makes of an answer ---


WITHOUT_NULLS = [
    (pa.float64(), [1.5, -2.0]),
    (pa.float32(), [1.5, -2.0]),
    (pa.int64(), [-(1 << 62) - 1, 1]),
    (pa.uint32(), [(1 << 32) - 1, 0]),
    (pa.int32(), [-(1 << 31), 1]),
    (pa.int16(), [-(1 << 15), 1]),
    (pa.int8(), [-128, 1]),
    (pa.uint16(), [65_535, 1]),
    (pa.uint8(), [255, 1]),
    (pa.bool_(), [True, False]),
    (pa.string(), ["a", ""]),
    (pa.date32(), [date(2026, 1, 2), date(1969, 1, 2)]),
    (pa.list_(pa.string()), [["a"], ["b", "c"]]),
]


@pytest.mark.parametrize(("column_type", "values"), WITHOUT_NULLS)
def test_mlflow_takes_a_vector_without_nulls_as_it_is(predict, column_type, values):
    vector = answer(column_type, values)
    given = predict(signature_of(vector.batch.schema), vector.to_pandas())

    expected = pd.to_datetime(values).tolist() if column_type == pa.date32() else values
    assert given["g.x"].tolist() == expected


@pytest.mark.parametrize("column_type", [pa.float64(), pa.float32(), pa.date32()], ids=str)
def test_a_null_number_or_date_is_missing_in_the_frame_of_the_model(predict, column_type):
    vector = answer(column_type, [date(2026, 1, 2) if column_type == pa.date32() else 1.5, None])
    given = predict(signature_of(vector.batch.schema), vector.to_pandas())

    assert given["g.x"].isna().tolist() == [False, True]


@pytest.mark.parametrize("column_type", [t for t in TYPES if pa.types.is_integer(t)], ids=str)
def test_mlflow_takes_no_null_integer_in_any_frame(predict, column_type):
    """As the docstring of `signature_of` says; if MLflow learns it, this test says so."""
    from mlflow.exceptions import MlflowException

    vector = answer(column_type, [1, None])
    made = signature_of(vector.batch.schema)

    with pytest.raises(MlflowException):
        predict(made, vector.to_pandas())
    with pytest.raises(MlflowException, match="Can not safely convert"):
        predict(made, vector.batch.to_pandas())


def test_a_null_text_becomes_a_text_in_the_arrow_frame(predict):
    """Worse than an error, so it is written down: `vector.batch.to_pandas()` keeps the null."""
    vector = answer(pa.string(), ["a", None])
    made = signature_of(vector.batch.schema)

    assert predict(made, vector.to_pandas())["g.x"].tolist() == ["a", "<NA>"]
    assert predict(made, vector.batch.to_pandas())["g.x"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("column_type", "values"),
    [
        (pa.bool_(), [True, None]),
        (pa.binary(), [b"a", None]),
        (pa.list_(pa.string()), [["a"], None]),
        (pa.list_(pa.int64()), [[1], None]),
    ],
    ids=str,
)
def test_mlflow_takes_other_nulls_in_the_plain_frame_only(predict, column_type, values):
    from mlflow.exceptions import MlflowException

    vector = answer(column_type, values)
    made = signature_of(vector.batch.schema)

    with pytest.raises(MlflowException):
        predict(made, vector.to_pandas())
    assert predict(made, vector.batch.to_pandas())["g.x"].isna().tolist() == [False, True]


def test_mlflow_wants_times_without_their_zone(predict):
    from mlflow.exceptions import MlflowException

    vector = answer(TIMESTAMP, [NOON, None])
    made = signature_of(vector.batch.schema)
    frame = vector.batch.to_pandas()

    with pytest.raises(MlflowException, match="timezone-naive"):
        predict(made, vector.to_pandas())
    with pytest.raises(MlflowException, match="timezone-naive"):
        predict(made, frame)
    given = predict(made, frame.assign(**{"g.x": frame["g.x"].dt.tz_localize(None)}))
    assert given["g.x"][0] == NOON.replace(tzinfo=None)
    assert given["g.x"].isna().tolist() == [False, True]


def test_a_column_may_be_left_out(predict):
    """What `required=False` does: a one-row frame may go without its null integers."""
    frame = pd.DataFrame({"tx.mean": [1.5], "tx.last": ["a"]})

    assert list(predict(signature_of(VECTOR), frame)) == ["tx.mean", "tx.last"]


# --- what a check finds ---


def test_the_signature_of_the_vector_fits():
    check_signature(VECTOR, signature_of(VECTOR), "fraud")


def test_required_columns_outputs_and_params_do_not_matter():
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    types = [("long", "tx.n"), ("double", "tx.mean"), ("string", "tx.last")]
    given = ModelSignature(
        inputs=Schema([ColSpec(*column) for column in types]),
        outputs=Schema([ColSpec("double")]),
        params=ParamSchema([ParamSpec("threshold", "double", 0.5)]),
    )

    check_signature(VECTOR, given, "fraud")


def test_a_missing_column_is_named_with_what_is_like_it():
    error = refusal(signature(("long", "tx.n"), ("double", "tx.meen"), ("string", "tx.last")))

    assert isinstance(error, BadRequest)
    assert error.message == (
        "the signature is not that of view 'fraud': column 'tx.mean' is missing ('tx.meen' is"
        " there); column 'tx.meen' is not in the view"
    )
    assert "training_data('fraud')" in error.hint


def test_a_surplus_column_is_named():
    columns = [("long", "tx.n"), ("double", "tx.mean"), ("string", "tx.last"), ("long", "age")]

    assert refusal(signature(*columns)).message.endswith("column 'age' is not in the view")


@pytest.mark.parametrize(("column_type", "name"), TYPES.items(), ids=map(str, TYPES))
def test_any_other_type_is_named(column_type, name):
    """Integers of another width too: the model was trained on something else."""
    for other in sorted(set(TYPES.values()) - {name}):
        error = refusal(signature((other, "g.x")), pa.schema({"g.x": column_type}))
        assert error.message.endswith(f"column 'g.x' must be {name}, is {other}")


def test_a_list_of_another_type_is_named():
    from mlflow.types.schema import Array

    error = refusal(signature((Array("long"), "g.x")), pa.schema({"g.x": pa.list_(pa.string())}))

    assert error.message.endswith("column 'g.x' must be Array(string), is Array(long)")


def test_another_order_is_named():
    error = refusal(signature(("double", "tx.mean"), ("long", "tx.n"), ("string", "tx.last")))

    assert error.message == (
        "the signature is not that of view 'fraud': column 'tx.n' must come first, comes after"
        " 'tx.mean'; column 'tx.mean' must come after 'tx.n', comes first; column 'tx.last' must"
        " come after 'tx.mean', comes after 'tx.n'"
    )


def test_a_missing_column_moves_no_other():
    error = refusal(signature(("double", "tx.mean"), ("string", "tx.last")))

    assert error.message.endswith("'fraud': column 'tx.n' is missing")


def test_a_column_that_is_there_twice_is_named():
    twice = [("long", "tx.n"), ("long", "tx.n"), ("double", "tx.mean"), ("string", "tx.last")]

    assert refusal(signature(*twice)).message.endswith("column 'tx.n' is there 2 times")


def test_at_most_eight_differences_are_shown():
    wide = pa.schema([(f"g.c{place}", pa.int64()) for place in range(20)])
    message = refusal(signature(*(("double", name) for name in wide.names)), wide).message

    assert message.count("must be long") == 8
    assert message.endswith("and 12 more")


def test_a_model_without_a_signature_is_told_so():
    error = refusal(None)

    assert error.message == "the model has no signature"
    assert error.hint == "log the model with signature=app.signature('fraud')"


def test_a_signature_without_inputs_is_told_so():
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    given = ModelSignature(outputs=Schema([ColSpec("double")]))

    assert refusal(given).message == "the signature has no inputs"


def test_inputs_that_are_tensors_are_told_so():
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    given = ModelSignature(inputs=Schema([TensorSpec(np.dtype("float64"), (-1, 3))]))

    assert "inputs are tensors" in refusal(given).message


def test_columns_without_names_are_told_so():
    assert "columns have no names" in refusal(signature(("long",), ("double",))).message


def test_what_is_no_signature_is_told_so():
    assert refusal({"inputs": "[]"}).message.endswith("ModelSignature, got dict")


# --- the package itself ---


def python(code):
    """What a fresh interpreter prints."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize("package", ["mlflow", "pandas"])
@pytest.mark.parametrize("call", ["signature_of(vector)", "check_signature(vector, None, 'fraud')"])
def test_without_the_extra_the_error_says_what_to_install(call, package):
    """Also without pandas, which mlflow-skinny needs here and does not ask for."""
    printed = python(
        "import sys, pyarrow as pa\n"
        "class NotInstalled:\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        if name == {package!r}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, NotInstalled)\n"
        "from hofflight.errors import SettingsError\n"
        "from hofflight.wire.model_signature import check_signature, signature_of\n"
        "vector = pa.schema({'g.x': pa.int64()})\n"
        "try:\n"
        f"    {call}\n"
        "except SettingsError as error:\n"
        "    print(error)"
    )

    assert printed == (
        "HOF-601: a model's signature needs the extra `mlflow`:"
        f" {package} is not installed Hint: pip install 'hofflight[mlflow]'"
    )


def test_mlflow_is_loaded_only_when_it_is_asked_for():
    printed = python(
        "import sys, hofflight, hofflight.wire.model_signature; print('mlflow' in sys.modules)"
    )

    assert printed == "False"


def test_a_signature_asks_nobody_on_the_network():
    """Every look-up of a host and every connection would be printed."""
    printed = python(
        "import sys, pyarrow as pa\n"
        "def tell(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname'):\n"
        "        print(event, args, flush=True)\n"
        "sys.addaudithook(tell)\n"
        "from hofflight.wire.model_signature import check_signature, signature_of\n"
        "vector = pa.schema({'g.x': pa.int64()})\n"
        "check_signature(vector, signature_of(vector), 'fraud')"
    )

    assert printed == ""
