"""What every registry promises: in a file of one machine, and in PostgreSQL for many."""

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.errors import (
    InvalidName,
    MissingFunction,
    ReadOnly,
    UnknownView,
    VersionChanged,
)
from hofflight.features.dataset import Dataset, Model
from hofflight.features.view import Feature, View
from tests.conformance.registries import make_group, make_view, save, together

PROCESSES = 4


def test_plan_says_created_then_unchanged_then_changed(registry):
    """A plan never writes; what is unchanged may be registered any number of times."""
    assert registry.plan_group(make_group()).state == "created"
    assert registry.groups() == []

    first = save(registry, make_group())
    again = save(registry, make_group())

    assert registry.plan_group(make_group()).state == "unchanged"
    assert registry.plan_group(make_group(minutes=20)).state == "changed"
    assert first == again
    assert registry.groups() == [first]


def test_a_changed_definition_is_refused_with_a_readable_diff(registry):
    """The diff shows the line before and after, and the hint says what to do."""
    save(registry, make_group())

    with pytest.raises(VersionChanged, match="HOF-107") as caught:
        save(registry, make_group(minutes=20))

    lines = str(caught.value).splitlines()
    assert any(line.startswith("-") and "over(10m)" in line for line in lines)
    assert any(line.startswith("+") and "over(20m)" in line for line in lines)
    assert "raise its version to 2" in str(caught.value)
    assert registry.group("card_tx").code_hash == make_group().code_hash()


def test_a_changed_function_is_refused_with_its_source_in_the_diff(registry):
    """The source text is what changed, so the source text is what is shown."""

    def build(function):
        return hof.feature_group(
            "opaque", version=1, key="card", event_time="ts",
            input={"card": pa.int64(), "ts": hof.TIMESTAMP}, output={"y": pa.int64()},
        )(function)  # fmt: skip

    def one(batch):
        return {"y": batch["card"]}

    def two(batch):
        return {"y": batch["card"].take([0])}

    save(registry, build(one))
    change = registry.plan_group(build(two))

    assert change.state == "changed"
    assert '+    return {"y": batch["card"].take([0])}' in change.diff


def test_what_was_saved_is_there_after_reopening(place):
    """A version is kept with its source, schema, packages, module and time."""
    first = place.open()
    save(first, make_group())
    first.save_view(View("fraud", 1, (Feature("card_tx", 1, "n"),), ("y",)), created_us=8)
    first.close()

    registry = place.open()
    record = registry.group("card_tx", 1)
    assert (record.module, record.created_us) == ("shop.features", 7)
    assert record.code_hash == make_group().code_hash()
    assert pa.ipc.read_schema(pa.py_buffer(record.input_schema)) == make_group().input
    assert record.packages["pyarrow"] == pa.__version__
    assert registry.views() == [View("fraud", 1, (Feature("card_tx", 1, "n"),), ("y",))]


def test_versions_with_the_same_input_schema_share_a_log(registry):
    """A later version can then fold the events that an earlier one was sent."""
    extra = {"amount": pa.float64()}
    numbers = [
        save(registry, make_group(1)).partition,
        save(registry, make_group(2, minutes=20)).partition,
        save(registry, make_group(3, extra=extra)).partition,
        save(registry, make_group(4, minutes=30)).partition,
        save(registry, make_group(1, name="other")).partition,
    ]

    assert numbers == ["card_tx.1", "card_tx.1", "card_tx.2", "card_tx.1", "other.1"]


def test_the_newest_version_is_the_highest_number_not_the_last_saved(registry):
    """Version 10 comes after 9, and after a late registration of 2."""
    for version in (9, 10, 2):
        save(registry, make_group(version))

    assert registry.group("card_tx").version == 10
    assert [g.version for g in registry.groups()] == [2, 9, 10]


def test_unknown_names_and_versions_say_what_there_is(registry):
    """A typing error is mended by reading the message."""
    save(registry, make_group())

    for name, version in (("card", None), ("card_tx", 2)):
        with pytest.raises(UnknownView, match=r"HOF-201.*card_tx@1"):
            registry.group(name, version)


def test_a_group_without_its_function_is_refused(registry):
    """Half a definition is never written."""
    half = hof.feature_group(
        "half", version=1, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP}, output={"y": pa.int64()},
    )  # fmt: skip

    with pytest.raises(MissingFunction, match="HOF-106"):
        save(registry, half)

    assert registry.groups() == []


def test_a_changed_view_is_refused(registry):
    """The order of a view's features is part of it."""
    one, two = Feature("card_tx", 1, "n"), Feature("card_tx", 1, "card")
    registry.save_view(View("fraud", 1, (one, two)), created_us=1)
    registry.save_view(View("fraud", 1, (one, two)), created_us=2)

    with pytest.raises(VersionChanged, match=r"view fraud@1"):
        registry.save_view(View("fraud", 1, (two, one)), created_us=3)

    assert registry.views() == [View("fraud", 1, (one, two))]


def test_a_reader_sees_what_a_writer_saves_and_writes_nothing(place):
    """Readers stand beside writers."""
    writer, reader = place.open(), place.open(read_only=True)
    save(writer, make_group())

    assert reader.group("card_tx") == writer.group("card_tx")
    for attempt in (
        lambda: save(reader, make_group(2)),
        lambda: save(reader, make_group()),
        lambda: reader.save_view(make_view("n"), created_us=1),
        lambda: reader.save_document(Model("m", 1, "train", 1), created_us=1),
        lambda: reader.leases().acquire(["t"], "i", 1, 1),
    ):
        with pytest.raises(ReadOnly, match="HOF-505"):
            attempt()
    assert [g.version for g in writer.groups()] == [1]


@pytest.mark.parametrize(
    "name", ["x'; DROP TABLE groups; --", 'x" OR 1=1', "card_tx\0", "%", "%s", "?", "*", "\ud800"]
)
def test_sql_in_a_name_is_only_a_name(registry, name):
    """Names that come from clients go to the database as values."""
    save(registry, make_group())

    with pytest.raises(UnknownView):
        registry.group(name)

    assert [g.name for g in registry.groups()] == ["card_tx"]


def test_a_group_is_kept_with_the_types_of_its_full_row(registry):
    """Sealing needs them where the code is not at hand."""
    record = save(registry, make_group(extra={"x": pa.float64()}))

    assert record.full == make_group(extra={"x": pa.float64()}).schema
    assert record.input == make_group(extra={"x": pa.float64()}).input
    assert (record.key, record.event_time) == (("card",), "ts")


# --- stored groups, datasets, models ---


def make_stored(version=1):
    return hof.stored_group(
        "customer", version=version, key="customer", event_time="updated", ttl="30d",
        schema={"customer": pa.int64(), "updated": hof.TIMESTAMP, "age": pa.int32()},
    )  # fmt: skip


def test_everything_that_is_kept_comes_back_as_it_was(place):
    """Stored groups with their columns, datasets with their statistics, models with their tags."""
    dataset = Dataset(
        "train", 1, "fraud", 1, None, 9, "arrival", "train.1.parquet", 3, {"card_tx.n": "int64"},
        {"card_tx@1": "ab"}, {"customer@1": 4}, {"card_tx.n": {"mean": 0.1, "zwölf": "\0"}},
    )  # fmt: skip
    model = Model("m", 1, "train", 1, {"run": "é"})
    registry = place.open()
    for stored in (make_stored(10), make_stored(9)):
        registry.save_stored(stored, created_us=1)
    registry.save_document(dataset, created_us=2)
    registry.save_document(model, created_us=3)

    for opened in (place.open(), place.open(read_only=True)):
        assert [g.definition() for g in opened.stored_groups()] == [
            make_stored(9).definition(), make_stored(10).definition(),
        ]  # fmt: skip
        assert opened.any_group("customer").schema.equals(make_stored().schema)
        assert (opened.datasets(), opened.models()) == ([dataset], [model])
        assert opened.view_named("m", None) == ("fraud", 1)


def test_a_name_means_one_thing(registry):
    """Whoever came first has it."""
    save(registry, make_group(name="customer"))
    registry.save_document(Model("m", 1, "train", 1), created_us=1)

    for attempt in (
        lambda: registry.save_stored(make_stored(), created_us=1),
        lambda: save(registry, make_group(name="m")),
        lambda: registry.save_document(Model("customer", 1, "train", 1), created_us=1),
    ):
        with pytest.raises(InvalidName, match="HOF-101"):
            attempt()
    assert (registry.stored_groups(), len(registry.groups())) == ([], 1)


# --- several at once ---


def test_a_registration_elsewhere_is_seen_by_the_next_call(place):
    """A server that runs for months reads what was registered a moment ago."""
    server, deployment = place.open(), place.open()
    assert server.groups() == []

    for version in (1, 2):
        save(deployment, make_group(version))
        assert server.group("card_tx").version == version
    deployment.save_view(make_view("n"), created_us=1)

    assert server.views() == [make_view("n")]
    assert server.plan_group(make_group(minutes=20)).state == "changed"


def test_what_belongs_together_is_kept_together_or_not_at_all(place):
    """A deployment whose third group is refused has registered none."""
    registry, other = place.open(), place.open()
    save(registry, make_group(name="c"))

    def deploy(*groups):
        with registry.writing():
            for group in groups:
                save(registry, group)

    with pytest.raises(VersionChanged):
        deploy(make_group(name="a"), make_group(name="b"), make_group(name="c", minutes=20))
    deploy(make_group(name="d"), make_group(name="e"))

    for each in (registry, other):
        assert [g.name for g in each.groups()] == ["c", "d", "e"]


def test_processes_that_register_the_same_agree(place):
    """Each finds the version, whoever made it; in a registry that all of them make, too."""
    for verb in ("open_same", "same"):
        assert together(place.url, verb, PROCESSES) == [make_group().code_hash()] * PROCESSES

    assert [g.version for g in place.open().groups()] == [1]


def test_of_processes_that_register_a_version_differently_one_has_its_way(place):
    """The others are told so: a version never changes."""
    said = together(place.url, "open_different", PROCESSES)

    assert said.count("HOF-107") == PROCESSES - 1
    assert place.open().group("card_tx").code_hash in said


def test_processes_never_give_one_log_to_two_input_schemas(place):
    """A log's name has the number of its schema, so that number is given once."""
    said = together(place.url, "next_version", PROCESSES)

    assert sorted(said) == list(range(1, PROCESSES + 1))
    numbers = {g.schema_number: g.input for g in place.open().groups()}
    assert len(numbers) == PROCESSES
