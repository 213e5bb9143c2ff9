"""The process that `app.apply` starts: what stands on its line, and what in its environment."""

import json
import sys
from pathlib import Path

import pytest

import hofflight as hof
from hofflight.assemble_apply import apply_spark, command_line, environment_of
from hofflight.errors import SettingsError
from hofflight.settings import load_settings
from tests.unit.cli.test_spark_guide import parsed

# In the place of `hof`: writes what it was given, is ready, and waits for its end.
PROGRAM = """
import json, os, sys
open("seen.json", "w").write(json.dumps([sys.argv[1:], dict(os.environ)]))
print('{"groups": ["g"], "partitions": [0]}', flush=True)
sys.stdin.read()
"""
SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_options_are_those_of_the_command(tmp_path):
    engine = hof.spark(
        master="local[2]", mode="microbatch", trigger="10s", partitions=[0, 2], checkpoint="c",
        takeover="1m", conf={"spark.a": "b=c", "spark.d": "--json"}, store="there",
    )  # fmt: skip
    words = command_line(tmp_path, ["g", "h"], "a,b.c", engine)
    found = parsed(words)

    assert found == {
        **parsed(["spark", "--group", "x", "--modules", "x", "--store", "x"]),
        "group": ["g", "h"], "modules": "a,b.c", "store": Path("there"), "mode": "microbatch",
        "trigger": "10s", "master": "local[2]", "checkpoint": "c", "partitions": "0,2",
        "takeover": "1m", "conf": ["spark.a=b=c", "spark.d=--json"],
        "json": True, "leashed": True, "make_topics": True,
    }  # fmt: skip


def test_without_options_all_is_as_the_command_has_it(tmp_path):
    found = parsed(command_line(tmp_path, ["g"], "m", hof.spark()))
    wanted = parsed(["spark", "--group", "g", "--modules", "m", "--store", str(tmp_path / "spark"),
                     "--json", "--leashed", "--make-topics"])  # fmt: skip
    assert found == wanted


def test_a_value_that_begins_like_an_option_is_none(tmp_path):
    found = parsed(command_line(tmp_path, ["g"], "m", hof.spark(master="--once", store="--once")))
    assert (found["master"], str(found["store"]), found["once"]) == ("--once", "--once", False)


def test_settings_that_were_given_as_objects_are_those_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv("HOF_KAFKA__PREFIX", "others")
    given = load_settings(
        kafka={"bootstrap": "a:1", "security": "SASL_SSL", "username": "u", "password": SECRET},
        registry={"url": f"postgresql://hof:{SECRET}@h/d"},
    ).model_copy()
    words = command_line(tmp_path, ["g"], "m", hof.spark(kafka="b:2"))
    environment = environment_of(tmp_path, given, hof.spark(kafka="b:2"), None)

    assert SECRET not in " ".join(words)
    found = {name: text for name, text in environment.items() if name.startswith("HOF_")}
    assert found == {
        "HOF_KAFKA__BOOTSTRAP": "b:2", "HOF_KAFKA__SECURITY": "SASL_SSL",
        "HOF_KAFKA__USERNAME": "u", "HOF_KAFKA__PASSWORD": SECRET, "HOF_KAFKA__PREFIX": "others",
        "HOF_REGISTRY__URL": f"postgresql://hof:{SECRET}@h/d",
    }  # fmt: skip


def test_the_registry_is_the_stores_own_where_no_other_is_named():
    environment = environment_of(Path("store"), load_settings(), hof.spark(), None)
    assert environment["HOF_REGISTRY__URL"] == f"sqlite:///{Path.cwd()}/store/registry.sqlite"


@pytest.mark.parametrize(
    ("setting", "wanted", "variable"),
    [(True, None, None), (False, None, "False"), (True, False, "False"), (False, True, None)],
)
def test_what_was_answered_goes_to_its_topics_or_not(setting, wanted, variable):
    given = load_settings(kafka={"features": setting})
    environment = environment_of(Path("store"), given, hof.spark(), wanted)
    assert environment.get("HOF_KAFKA__FEATURES") == variable


def test_it_is_started_where_our_modules_are_found(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "code").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    command = [sys.executable, "program.py"]
    with apply_spark(
        tmp_path / "store", load_settings(), ["g"], "m", hof.spark(), command=command
    ) as running:
        assert running.groups == ("g",)
        arguments, environment = json.loads((tmp_path / "seen.json").read_text())

    assert arguments == command_line(tmp_path / "store", ["g"], "m", hof.spark())
    assert environment["PYTHONPATH"].split(":")[0] == str(tmp_path / "code")


def test_the_command_itself_says_what_is_wrong(tmp_path):
    """The real one: it reads the registry of a store that is open, and finds no brokers."""
    module = tmp_path / "their_features.py"
    module.write_text(
        "import pyarrow as pa, hofflight as hof\n"
        "g = hof.feature_group('g', version=1, key='k', event_time='ts',\n"
        "    input={'k': pa.string(), 'ts': hof.TIMESTAMP}, windows={'n': hof.count().last(3)})\n"
    )
    with hof.open("store") as app:
        names = {}
        exec(module.read_text(), names)
        app.register(names["g"])
        with pytest.raises(SettingsError, match=r"HOF-601.*kafka"):
            app.apply("g", engine=hof.spark(modules="their_features"))
        with pytest.raises(SettingsError, match="there is no module 'nowhere'"):
            app.apply("g", engine=hof.spark(modules="nowhere"))
