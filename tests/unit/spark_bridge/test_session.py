"""What a session is opened with, and what is refused before it is."""

import pytest

from hofflight.errors import SettingsError
from hofflight.spark_bridge.session import RECIPE, _require_one_executor, local_master


class FakeConf:
    def __init__(self, **values):
        self._values = {name.replace("__", "."): value for name, value in values.items()}

    def get(self, name, default):
        return self._values.get(name, default)


class FakeSession:
    """A session of a cluster's, as far as its settings go."""

    def __init__(self, **conf):
        self.sparkContext = self
        self._conf = FakeConf(**conf)
        self.is_stopped = False

    def getConf(self):
        return self._conf

    def stop(self):
        self.is_stopped = True


ONE = {"spark__executor__instances": "1"}


def test_this_machine_has_a_thread_for_each_query_and_tries_a_task_again():
    """With local[N] alone a worker that dies would end its query."""
    assert local_master(1) == "local[2,4]"
    assert local_master(8) == "local[9,4]"


def test_settings_of_spark_are_text():
    """Its builder takes others too, and writes them its own way."""
    assert all(name.startswith("spark.") and isinstance(v, str) for name, v in RECIPE.items())


@pytest.mark.parametrize(
    ("master", "conf"),
    [
        ("local", {}),
        ("local[3,4]", {}),
        ("local[*]", {}),
        ("local-cluster[1,2,1024]", {}),
        ("spark://host:7077", ONE),
        ("yarn", {**ONE, "spark__dynamicAllocation__enabled": "false"}),
    ],
)
def test_state_that_stays_where_it_is_is_let_through(master, conf):
    session = FakeSession(**conf)
    _require_one_executor(master, session)
    assert not session.is_stopped


@pytest.mark.parametrize(
    ("master", "conf", "found"),
    [
        ("spark://host:7077", {}, "any number of executors"),
        ("yarn", {"spark__executor__instances": "2"}, "2 executors"),
        ("yarn", {**ONE, "spark__dynamicAllocation__enabled": "true"}, "1 executors"),
        ("local-cluster[2,1,1024]", {}, "2 executors"),
        ("k8s://https://host", {}, "any number of executors"),
    ],
)
def test_executors_between_which_a_partition_could_move_are_refused(master, conf, found):
    """Its state is on one machine. The session that is open is closed."""
    session = FakeSession(**conf)
    with pytest.raises(SettingsError, match=rf"HOF-601.*has {found}, expected 1.*instances=1"):
        _require_one_executor(master, session)
    assert session.is_stopped
