"""`hof` with a registry apart from the store: in PostgreSQL, and in a file."""

import json
import sqlite3
import time
from contextlib import closing
from types import SimpleNamespace

import pytest

import hofflight as hof
from hofflight.testing.postgres import postgres_server
from tests.integration.test_cli import CHANGED, WITH_VIEW, ended, event, runner, serving


@pytest.fixture(scope="module")
def postgres():
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """A folder with modules, the address of a registry, and `hof`, which is told the address."""
    if request.param == "sqlite":
        url = "sqlite:///shared.sqlite"
    else:
        url = request.getfixturevalue("postgres").new_database()
    run = runner(tmp_path)

    def printed(*arguments):
        done = run(*arguments, "--registry", url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return SimpleNamespace(folder=tmp_path, url=url, run=run, printed=printed)


def test_a_registry_is_planned_written_and_read_without_any_store(place):
    """A deployment registers; whoever serves has its store somewhere else."""
    assert place.printed("plan", "viewed").splitlines() == [
        "+ group card_tx@1 created", "+ view fraud@1 created",
    ]  # fmt: skip
    assert not (place.folder / "shared.sqlite").exists()
    assert place.printed("register", "viewed") == (
        "+ group card_tx@1 created\n+ view fraud@1 created\n"
    )
    assert "unchanged" in place.printed("plan", "viewed")
    (version,) = json.loads(place.printed("history", "--json"))["versions"]
    assert (version["group"], version["stream"]) == ("card_tx@1", "card_tx.1")
    described = json.loads(place.printed("describe", "--json"))
    assert [view["view"] for view in described["views"]] == ["fraud@1"]
    contract = json.loads(place.printed("describe", "fraud", "--json"))
    assert [column["name"] for column in contract["output"]] == [
        "card_tx.mean_30d", "card_tx.amount",
    ]  # fmt: skip

    by_environment = place.run("history", HOF_REGISTRY__URL=place.url)
    assert "card_tx@1" in by_environment.stdout


def test_a_changed_version_is_refused_and_all_with_it(place):
    """As in a store; nothing of the module is kept."""
    place.printed("register", "features")
    (place.folder / "more.py").write_text(
        CHANGED + CHANGED.replace("card_tx", "another").replace("import", "#")
    )
    refused = place.run("register", "more", "--registry", place.url)

    assert refused.returncode == 1
    assert "! group card_tx@1 changed" in refused.stdout
    versions = json.loads(place.printed("history", "--json"))["versions"]
    assert [version["group"] for version in versions] == ["card_tx@1"]


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_everything_about_a_store_works_with_a_registry_apart(place):
    """Served, trained on, verified, sealed, in processes that the server starts too."""
    arguments = ("--registry", place.url, "--modules", "viewed")
    store = ("--store", "store")
    with serving(place.folder, *arguments) as (process, address):
        with hof.connect(address, deadline_ms=60_000) as client:
            for seconds in range(5):
                client.vector("fraud", event(seconds % 2, seconds))
            assert client.verify("fraud").rows == 5
            assert client.training_data("fraud").num_rows == 5
        # A deployment beside the server that runs.
        later = WITH_VIEW.replace('"card_tx"', '"later"').replace("card_tx.", "later.")
        (place.folder / "later.py").write_text(later.replace('"fraud"', '"other"'))
        assert "later@1 created" in place.printed("register", "later")
        assert "later@1" in place.printed("describe", *store)
        assert ended(process) == 0
    assert not (place.folder / "store" / "registry.sqlite").exists()

    (stream,) = json.loads(place.printed("log", "seal", *store, "--json"))["sealed"]
    assert (stream["stream"], stream["rows"]) == ("card_tx.1", 5)
    (stream,) = json.loads(place.printed("log", "ls", *store, "--json"))["streams"]
    assert stream["sealed_rows"] == 5
    assert len(json.loads(place.printed("log", "cat", "card_tx.1", *store, "--json"))["rows"]) == 5
    modules = ("--modules", "viewed", *store)
    place.printed("train", "fraud", "--save", "train", *modules)
    place.printed("model", "m", "--dataset", "train", *store)
    assert json.loads(place.printed("verify", "fraud", "--json", *modules))["mismatches"] == 0
    assert "5" in place.printed("backfill", "card_tx", *modules)
    models = json.loads(place.printed("describe", "--json"))["models"]
    assert [model["name"] for model in models] == ["m"]


def test_stored_rows_and_labels_find_a_registry_apart(place):
    """`materialize` and `label` too."""
    (place.folder / "stored.py").write_text(
        "import pyarrow as pa, hofflight as hof\n"
        "customer = hof.stored_group('customer', version=1, key='customer', event_time='at',\n"
        "    schema={'customer': pa.int64(), 'at': hof.TIMESTAMP, 'age': pa.int32()})\n"
    )
    (place.folder / "rows.csv").write_text("customer,at,age\n1,2026-01-01T00:00:00Z,30\n")
    (place.folder / "labeled.py").write_text(
        WITH_VIEW.replace('"card_tx.amount"]', '"card_tx.amount"], labels=["y"]')
    )
    (place.folder / "labels.csv").write_text("card,ts,y\n0,2023-11-14T22:13:20Z,true\n")
    for module in ("stored", "labeled"):
        place.printed("register", module)
    with hof.open(place.folder / "store", registry=absolute(place)) as app:
        assert app.views()

    loaded = place.printed("materialize", "customer", "rows.csv", "--store", "store", "--json")
    assert json.loads(loaded)["rows"] == 1
    labeled = place.printed("label", "fraud", "labels.csv", "--store", "store", "--json")
    assert json.loads(labeled)["rows"] == 1


def absolute(place):
    """The address as another directory would need it."""
    return place.url.replace("sqlite:///", f"sqlite:///{place.folder}/")


def test_a_server_seals_with_the_registry_that_it_was_given(tmp_path, postgres):
    """The process that seals is told the address without its command line, which others see."""
    url = postgres.new_database()
    settings = hof.load_settings(log={"seal_bytes": 1, "seal_check_s": 1}, registry={"url": url})
    module = runner(tmp_path) and {}
    exec((tmp_path / "features.py").read_text(), module)
    with hof.open(tmp_path / "store", settings=settings) as app:
        app.register(module["card_tx"])
        app.vector("card_tx", event(1, 1))
        manifest = tmp_path / "store" / "sealed" / "card_tx.1" / "manifest.json"
        wait_for(manifest.exists)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_one_of_store_and_registry_has_to_be_named(tmp_path):
    run = runner(tmp_path)
    for command in (("plan", "features"), ("register", "features"), ("history",), ("describe",)):
        refused = run(*command)
        assert (refused.returncode, "HOF-601" in refused.stderr) == (2, True), refused.stderr
    refused = run("describe", "--url", "grpc://127.0.0.1:1", "--registry", "sqlite:///x")
    assert refused.returncode == 2


def test_a_file_that_is_no_registry_is_left_alone(tmp_path):
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as db:
        db.execute("CREATE TABLE mine (id int)")
        db.execute("PRAGMA user_version = 77")
    refused = runner(tmp_path)("register", "features", "--registry", "sqlite:///other.sqlite")

    assert (refused.returncode, "HOF-503" in refused.stderr) == (1, True)
