"""`hof` as its users run it: as a process, with exit codes, output and signals."""

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import hofflight as hof

REPO = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "hofflight.cli.main"]
FEATURES = """
import pyarrow as pa
import hofflight as hof

card_tx = hof.feature_group(
    "card_tx", version=1, key="card", event_time="ts",
    input={"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()},
    output={"log_amount": hof.col("amount").log1p()},
    windows={"n_10m": hof.count().over("10m"), "mean_30d": hof.mean("amount").over("30d")},
)
"""
WITH_VIEW = f"""{FEATURES}
fraud = hof.view("fraud", version=1, features=["card_tx.mean_30d", "card_tx.amount"])
"""
CHANGED = FEATURES.replace('"30d"', '"7d"')
NOON_US = 1_700_000_000_000_000


def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOF_")}
    return {**kept, "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def hof_run(tmp_path):
    """Runs `hof ARGUMENTS` in a directory that holds features.py."""
    return runner(tmp_path)


def runner(folder):
    (folder / "features.py").write_text(FEATURES)
    (folder / "changed.py").write_text(CHANGED)
    (folder / "viewed.py").write_text(WITH_VIEW)
    (folder / "reordered.py").write_text(
        WITH_VIEW.replace('["card_tx.mean_30d", "card_tx.amount"]', '["card_tx.*"]')
    )
    (folder / "misnamed.py").write_text(WITH_VIEW.replace("card_tx.amount", "card_tx.amuont"))

    def run(*arguments, **more):
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder,
            env={**environment(), **more},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


@contextmanager
def serving(folder, *arguments):
    """`hof serve` at a free port: the process and its address."""
    command = [*COMMAND, "serve", "--json", "--store", "store", "--grpc", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            readable, _, _ = select.select([process.stdout], [], [], 60)
            line = process.stdout.readline() if readable else ""
            assert line, process.stderr.read()
            yield process, json.loads(line)["address"]
        finally:
            process.kill()


def ended(process, signum=signal.SIGTERM):
    process.send_signal(signum)
    return process.wait(30)


def event(card, seconds, amount=10.0):
    return {"card": card, "ts": NOON_US + seconds * 1_000_000, "amount": amount}


# --- plan and register ----------------------------------------------------------------------------


def test_plan_of_a_new_store_is_created_and_makes_none(hof_run, tmp_path):
    planned = hof_run("plan", "features", "--store", "store")

    assert (planned.returncode, planned.stdout) == (0, "+ group card_tx@1 created\n")
    assert not (tmp_path / "store").exists()


def test_register_creates_and_then_nothing_changes(hof_run):
    first = hof_run("register", "features:card_tx", "--store", "store", "--json")
    again = hof_run("register", "features", "--store", "store")

    assert json.loads(first.stdout)["changes"][0]["state"] == "created"
    assert (again.returncode, again.stdout) == (0, "= group card_tx@1 unchanged\n")


@pytest.mark.parametrize("verb", ["plan", "register"])
def test_a_changed_definition_is_refused_with_its_diff(hof_run, verb):
    hof_run("register", "features", "--store", "store")

    refused = hof_run(verb, "changed", "--store", "store")

    assert refused.returncode == 1
    assert "! group card_tx@1 changed" in refused.stdout
    assert '-  "mean_30d": "mean(amount).over(30d) -> double"' in refused.stdout
    assert '+  "mean_30d": "mean(amount).over(1w) -> double"' in refused.stdout
    assert "Traceback" not in refused.stderr
    assert hof_run("plan", "features", "--store", "store").returncode == 0


def test_views_are_registered_with_their_module_and_served(hof_run, tmp_path):
    registered = hof_run("register", "viewed", "--store", "store")
    reordered = hof_run("plan", "reordered", "--store", "store")

    assert registered.stdout == "+ group card_tx@1 created\n+ view fraud@1 created\n"
    assert reordered.returncode == 1
    assert "! view fraud@1 changed" in reordered.stdout
    with serving(tmp_path, "--modules", "viewed") as (process, address):
        with hof.connect(address, deadline_ms=20_000) as client:
            vector = client.vector("fraud", event(7, 0, amount=9.5))
        assert ended(process) == 0
    assert vector.to_dict() == {"card_tx.mean_30d": 9.5, "card_tx.amount": 9.5}


def test_a_view_of_an_unknown_column_is_refused_with_the_nearest_name(hof_run):
    refused = hof_run("plan", "misnamed", "--store", "store")

    assert refused.returncode == 2
    assert "HOF-102" in refused.stderr
    assert "did you mean 'amount'" in refused.stderr


def test_serve_refuses_a_changed_definition(hof_run):
    hof_run("register", "features", "--store", "store")

    refused = hof_run("serve", "--modules", "changed", "--store", "store", "--grpc", "127.0.0.1:0")

    assert refused.returncode == 2
    assert refused.stderr.startswith("HOF-107: group card_tx@1 is registered with another")


def test_a_wrong_setting_is_2_and_a_traceback_only_comes_when_asked_for(hof_run):
    short = hof_run("plan", "missing", "--store", "store")
    long = hof_run("plan", "missing", "--store", "store", HOF_DEBUG="1")

    assert short.returncode == 2
    assert short.stderr.startswith("HOF-601: there is no module 'missing'")
    assert "Traceback" not in short.stderr
    assert "Traceback" in long.stderr


def test_a_directory_that_is_no_store_is_refused(hof_run, tmp_path):
    before = sorted(tmp_path.iterdir())

    refused = hof_run("history", "--store", ".")

    assert refused.returncode == 1
    assert refused.stderr.startswith("HOF-503")
    assert sorted(tmp_path.iterdir()) == before


# --- reading --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Runs `hof` beside a store with three rows, two of them sealed, and one refused request.

    The third row is late.
    """
    folder = tmp_path_factory.mktemp("filled")
    run = runner(folder)
    names = {}
    exec(FEATURES, names)
    with hof.open(folder / "store") as app:
        app.register(names["card_tx"], module="features")
        app.view("fraud", 1, ["card_tx.n_10m", "card_tx.amount"], labels=["is_fraud"])
        app.vector("card_tx", [event(1, 0), event(1, 60, 20.0)])
        app.seal()
        app.vector("card_tx", event(1, -3_600))
        with pytest.raises(hof.HofError):
            app.vector("card_tx", {"card": None, "ts": NOON_US, "amount": 1.0})
    return run


def test_describe_shows_groups_views_and_columns(filled):
    described = json.loads(filled("describe", "--store", "store", "--json").stdout)
    table = filled("describe", "--store", "store").stdout

    (group,), (view,) = described["groups"], described["views"]
    assert (group["group"], group["key"], group["event_time"]) == ("card_tx@1", ["card"], "ts")
    assert {"section": "input", "name": "amount", "declared": "double"} in group["columns"]
    assert view == {
        "view": "fraud@1",
        "features": ["card_tx@1.n_10m", "card_tx@1.amount"],
        "labels": ["is_fraud"],
        "on_missing": "mark",
    }
    assert "count().over(10m) -> int64" in table


def test_history_shows_when_each_version_came(filled):
    (version,) = json.loads(filled("history", "--store", "store", "--json").stdout)["versions"]

    assert version["group"] == "card_tx@1"
    assert version["module"] == "features"
    assert len(version["code_hash"]) == 16
    assert version["created"].startswith("20")


def test_log_ls_counts_records_rows_and_voids_sealed_and_live(filled):
    (stream,) = json.loads(filled("log", "ls", "--store", "store", "--json").stdout)["streams"]

    assert stream.pop("bytes") > 100
    assert stream.pop("sealed_bytes") > 100
    assert stream == {
        "stream": "card_tx.1", "segments": 1, "records": 3, "rows": 3, "voids": 1, "sealed_rows": 2,
    }  # fmt: skip


def test_log_cat_shows_raw_rows_in_order(filled):
    shown = filled("log", "cat", "card_tx.1", "--store", "store", "--as", "jsonl")

    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [row["seq"] for row in rows] == [1 << 20, 1 << 20 | 1, 2 << 20, 3 << 20]
    assert [row["code"] for row in rows] == ["OK", "OK", "OK", "HOF-205"]
    assert [row["late"] for row in rows] == [False, False, True, False]
    assert rows[0]["row"] == {"card": 1, "ts": "2023-11-14T22:13:20+00:00", "amount": 10.0}
    assert rows[0]["id"] == rows[1]["id"] != rows[2]["id"]
    assert rows[3]["row"] is None
    assert "null" in rows[3]["error"]


def test_log_cat_stops_at_its_limit(filled):
    shown = filled("log", "cat", "card_tx.1", "--store", "store", "--limit", "1", "--json")

    assert len(json.loads(shown.stdout)["rows"]) == 1


def test_log_cat_shows_answers_without_their_code(filled):
    shown = filled("log", "cat", "card_tx.1", "--store", "store", "--answers", "--json")

    rows = [entry["row"] for entry in json.loads(shown.stdout)["rows"]]
    assert [row and row["n_10m"] for row in rows] == [1, 2, None, None]
    assert rows[1]["mean_30d"] == 15.0


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        (("--key", "1", "--from", "2023-11-14T22:14:00Z"), [60]),
        (("--key", "1", "--until", "2023-11-14T22:14:20+00:00"), [0, -3_600]),
        (("--key", "2"), []),
    ],
)
def test_log_cat_shows_one_key_and_a_span_of_event_time(filled, arguments, seconds):
    """In order of arrival, sealed and live; what was refused has neither key nor time."""
    shown = filled("log", "cat", "card_tx.1", "--store", "store", "--json", *arguments)

    times = [entry["row"]["ts"] for entry in json.loads(shown.stdout)["rows"]]
    wanted = [datetime.fromtimestamp(NOON_US // 1_000_000 + s, UTC).isoformat() for s in seconds]
    assert times == wanted


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--key", "one"), 1, "HOF-215: key 'card' is int64, got 'one'"),
        (("--as", "parquet"), 2, "HOF-601: --as parquet writes a file Hint: add --out FILE"),
        (("--as", "csv"), 2, "HOF-601: --as takes one of table, jsonl, parquet"),
    ],
)
def test_log_cat_says_what_is_wrong_with_its_options(filled, arguments, code, said):
    refused = filled("log", "cat", "card_tx.1", "--store", "store", *arguments)

    assert refused.returncode == code
    assert refused.stderr.startswith(said)


@pytest.mark.parametrize("answers", [False, True])
def test_log_cat_writes_all_rows_as_parquet(filled, tmp_path, answers):
    """Sealed and live ones, by one schema; answers come beside what was sent."""
    file = tmp_path / "rows.parquet"
    more = ("--answers",) if answers else ()
    done = filled(
        "log", "cat", "card_tx.1", "--store", "store", "--as", "parquet", "--out", str(file), *more
    )
    rows = pq.ParquetFile(file).read().to_pylist()

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "3 rows in rows.parquet\n")
    assert [row["amount"] for row in rows] == [10.0, 20.0, 10.0]
    assert [row["_late"] for row in rows] == [False, False, True]
    assert [row["_answer"]["n_10m"] for row in rows if answers] == [1, 2, None][: 3 * answers]


def test_a_log_that_is_not_there_is_refused_with_those_that_are(filled):
    refused = filled("log", "cat", "card_tx.2", "--store", "store")

    assert refused.returncode == 2
    assert "['card_tx.1']" in refused.stderr


def test_doctor_has_nothing_to_mend_here(hof_run):
    examined = hof_run("doctor", "--json")

    assert json.loads(examined.stdout)["problems"] == []
    assert examined.returncode == 0


# --- serve ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_and_ends_with_0_at_a_signal(hof_run, tmp_path, signum):
    with serving(tmp_path, "--modules", "features") as (process, address):
        with hof.connect(address) as client:
            vector = client.vector("card_tx", [event(1, 0), event(1, 60)]).to_dict()
        code = ended(process, signum)

    assert [row["card_tx.n_10m"] for row in vector] == [1, 2]
    assert code == 0
    (stream,) = json.loads(hof_run("log", "ls", "--store", "store", "--json").stdout)["streams"]
    assert stream["rows"] == 2  # and nothing of the warm-up


def test_the_second_writer_is_refused_and_told_where_the_first_one_serves(hof_run, tmp_path):
    with serving(tmp_path, "--modules", "features") as (process, address):
        server = hof_run("serve", "--store", "store", "--grpc", "127.0.0.1:0")
        register = hof_run("register", "features", "--store", "store")
        beside = hof_run("plan", "features", "--store", "store")
        ended(process)

    assert server.returncode == register.returncode == 1
    assert server.stderr.startswith(f"HOF-501: process {process.pid} is writing this store")
    assert address in server.stderr
    assert "restart that server with --modules features" in register.stderr
    assert (beside.returncode, beside.stdout) == (0, "= group card_tx@1 unchanged\n")


def test_a_running_server_can_be_described(hof_run, tmp_path):
    with serving(tmp_path, "--modules", "features") as (process, address):
        described = hof_run("describe", "--url", address, "--json")
        ended(process)

    (view,) = json.loads(described.stdout)["views"]
    assert view["view"] == "card_tx"
    assert {"name": "card_tx.mean_30d", "type": "double"} in view["output"]


def test_groups_whose_code_was_not_named_are_warned_of(hof_run, tmp_path):
    hof_run("register", "features", "--store", "store")

    with serving(tmp_path) as (process, _):
        ended(process)
        events = [json.loads(line) for line in process.stderr.read().splitlines()]

    (warning,) = [event for event in events if event["event"] == "code_not_loaded"]
    assert warning["group"] == "card_tx@1"
    assert warning["fix"] == "--modules features"
    assert warning["level"] == "warning"


def test_serve_refuses_an_address_that_others_can_reach(hof_run):
    refused = hof_run("serve", "--store", "store", "--grpc", "0.0.0.0:0")

    assert refused.returncode == 2
    assert refused.stderr.startswith("HOF-602")


def test_serve_listens_at_a_unix_socket_too(hof_run, tmp_path):
    with serving(tmp_path, "--modules", "features", "--grpc-unix", "hof.sock") as (process, _):
        with hof.connect(f"grpc+unix://{tmp_path / 'hof.sock'}") as client:
            vector = client.vector("card_tx", event(7, 0)).to_dict()
        code = ended(process)

    assert vector["card_tx.card"] == 7
    assert code == 0
