"""`app.apply`: which groups, whose code, what it gives, when that ends. No process is started."""

import types

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.app import App
from hofflight.clock import SystemClock
from hofflight.errors import (
    CodeNotLoaded,
    Draining,
    SettingsError,
    StoreLocked,
    UnknownView,
)

DECLARED = """
import pyarrow as pa
import hofflight as hof
def declared(name="g", version=1, last=3):
    return hof.feature_group(
        name, version=version, key="k", event_time="ts",
        input={"k": pa.string(), "ts": hof.TIMESTAMP}, windows={"n": hof.count().last(last)},
    )
"""


def declared_in(module, *arguments):
    """A group that code of this module declared."""
    namespace = {"__name__": module}
    exec(DECLARED, namespace)
    return namespace["declared"](*arguments)


class Running:
    """An application that is always well; `asked` is called by who asks for that."""

    def __init__(self):
        self.is_stopped = False
        self.asked = lambda: None
        self.error = None

    @property
    def is_running(self):
        self.asked()
        return not self.is_stopped

    def stop(self):
        self.is_stopped = True
        if self.error:
            raise self.error


class Spark:
    """Starts none, and keeps what it was asked for."""

    def __init__(self):
        self.asked = []
        self.started = []
        self.error = None
        self.meanwhile = lambda: None

    def __call__(self, groups, modules, engine, *, save_features):
        if self.error:
            raise self.error
        self.asked.append((list(groups), modules, engine, save_features))
        self.meanwhile()
        self.started.append(Running())
        return self.started[-1]


@pytest.fixture
def spark():
    return Spark()


@pytest.fixture
def app(tmp_path, spark):
    """An open store whose applications are fakes."""
    with hof.open(tmp_path / "store") as opened:
        app = App(
            opened.engine, opened.worker, SystemClock(), path=opened.path, offline=opened.offline,
            announce=opened.announce, on_close=lambda: None, start_spark=spark,
        )  # fmt: skip
        yield app
        app.close()


def test_a_group_goes_with_the_module_that_declared_it(app, spark):
    app.register(declared_in("features"))
    engine = hof.spark(trigger="10s")
    running = app.apply("g", engine=engine)

    assert running is spark.started[0]
    assert spark.asked == [(["g"], "features", engine, None)]


def test_several_groups_and_versions_go_with_the_modules_of_all(app, spark):
    for module, *arguments in (("b", "g", 1), ("a", "g", 2, 4), ("b", "h"), ("c", "i")):
        app.register(declared_in(module, *arguments))
    app.apply(["g", "h"], engine=hof.spark(), save_features=False)

    assert spark.asked == [(["g", "h"], "b,a", hof.spark(), False)]


def test_a_function_is_where_its_group_is(app, spark):
    @hof.feature_group(
        "f", version=1, key="k", event_time="ts", output={"x": pa.int64()},
        input={"k": pa.string(), "ts": hof.TIMESTAMP},
    )  # fmt: skip
    def f(batch):
        return {"x": pa.array([1] * len(batch))}

    app.register(f)
    app.apply("f", engine=hof.spark())
    assert spark.asked[0][1] == __name__


def test_code_that_has_moved_is_found_where_it_is_now(app, spark):
    """The registry keeps the first place for good, since the version is the same."""
    app.register(declared_in("__main__"), module="__main__")
    app.register(declared_in("__main__", "h"), module="said_so")
    app.apply("h", engine=hof.spark())
    assert spark.asked[0][1] == "said_so"
    with pytest.raises(SettingsError):
        app.apply("g", engine=hof.spark())


def test_code_that_is_not_loaded_here_is_where_it_was(app, spark):
    app.engine.registry.save_group(declared_in("x"), module="before", created_us=0)
    app.engine.registry.save_group(declared_in("x", "g", 2, 4), module="features", created_us=0)
    app.apply("g", engine=hof.spark())
    assert spark.asked[0][1] == "features"


@pytest.mark.parametrize("module", ["__main__", ""])
def test_a_group_of_a_notebook_is_refused_with_what_to_do(app, spark, module):
    app.register(declared_in(module))
    with pytest.raises(SettingsError, match=r"HOF-601: g@1 .*notebook.*features\.py.*modules="):
        app.apply("g", engine=hof.spark())
    app.apply("g", engine=hof.spark(modules="features:g"))
    assert spark.asked[0][1] == "features:g"


@pytest.mark.parametrize("engine", ["embedded", hof.spark(), hof.spark(modules="m")])
def test_a_group_that_nobody_registered_is_refused(app, spark, engine):
    app.register(declared_in("features"))
    with pytest.raises(UnknownView, match="HOF-201"):
        app.apply(["g", "other"], engine=engine)
    assert spark.asked == []


@pytest.mark.parametrize(("groups", "engine"), [([], hof.spark()), ("g", "flink")])
def test_nothing_and_engines_that_are_none_are_refused(app, groups, engine):
    app.register(declared_in("features"))
    with pytest.raises(SettingsError, match="HOF-601"):
        app.apply(groups, engine=engine)


def test_what_was_applied_ends_with_the_app(app, spark):
    app.register(declared_in("features"))
    first = app.apply("g", engine=hof.spark())
    first.stop()
    app.apply("g", engine=hof.spark(partitions=[0]))
    app.apply("g", engine=hof.spark(partitions=[1]))
    app.close()

    assert [each.is_running for each in spark.started] == [False] * 3
    with pytest.raises(Draining):
        app.apply("g", engine=hof.spark())


def test_what_starts_while_the_app_is_closed_is_stopped(app, spark):
    """By another thread: Spark takes some 10 s. Nobody else would stop it."""
    app.register(declared_in("features"))
    spark.meanwhile = app.close
    with pytest.raises(Draining, match="HOF-303"):
        app.apply("g", engine=hof.spark())
    assert [each.is_stopped for each in spark.started] == [True]


def test_also_what_has_just_started_when_the_app_is_closed_is_stopped(app, spark):
    """Between its start and what comes last in `apply`."""
    app.register(declared_in("features"))
    app.apply("g", engine=hof.spark(partitions=[0])).asked = app.close
    with pytest.raises(Draining):
        app.apply("g", engine=hof.spark(partitions=[1]))
    assert [each.is_stopped for each in spark.started] == [True, True]


def test_an_app_is_closed_whatever_one_of_its_applications_ends_of(tmp_path, spark):
    """All of them are told to stop, and the store is let go of: another one may open it."""
    closed = []
    opened = hof.open(tmp_path / "store")
    app = App(
        opened.engine, opened.worker, SystemClock(), path=opened.path, offline=opened.offline,
        announce=opened.announce, on_close=lambda: closed.append(True) or opened.close(),
        start_spark=spark,
    )  # fmt: skip
    app.register(declared_in("features"))
    for number in range(3):
        app.apply("g", engine=hof.spark(partitions=[number])).error = OSError(f"pipe {number}")
    with pytest.raises(OSError, match="pipe 0"):
        app.close()
    assert [each.is_stopped for each in spark.started] == [True] * 3
    assert closed == [True]
    app.close()  # again: nothing
    with hof.open(tmp_path / "store"):
        pass


def test_an_application_that_does_not_start_is_its_own_error(app, spark):
    app.register(declared_in("features"))
    spark.error = StoreLocked("somebody has it", hint="stop it")
    with pytest.raises(StoreLocked, match="HOF-501"):
        app.apply("g", engine=hof.spark())


def test_embedded_is_served_already_until_the_app_is_closed(app):
    app.register(declared_in("__main__"))
    with app.apply("g") as running:
        assert (running.groups, running.exit_code) == (("g",), None)
        assert repr(running) == "<embedded g>"
    running.stop()
    assert (running.is_running, running.wait()) == (True, False)
    assert app.vector("g", {"k": "a", "ts": 0}).to_dict()["g.n"] == 1
    app.close()
    assert (running.is_running, running.wait()) == (False, True)


def test_embedded_keeps_its_answers_and_needs_its_code(app):
    app.register(declared_in("features"))
    app.apply("g", save_features=True)
    with pytest.raises(SettingsError, match="keeps what it answered"):
        app.apply("g", save_features=False)
    app.engine.registry.save_group(declared_in("x", "h"), module="x", created_us=0)
    with pytest.raises(CodeNotLoaded):
        app.apply("h")


def test_a_group_knows_who_declared_it():
    module = types.ModuleType("theirs")
    exec(DECLARED, vars(module))
    assert module.declared().module == "theirs"
