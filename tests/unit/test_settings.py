"""Settings from the environment: what is no setting is said, and never passed over."""

import pytest

from hofflight.errors import SettingsError
from hofflight.settings import load_settings


@pytest.mark.parametrize(
    "name",
    ["HOF_BOGUS__X", "hof_bogus__x", "HOF_KAFKA__BOGUS", "HOF_KAFKA", "HOF_LOG__", "HOF___X"],
)
def test_a_variable_that_is_no_setting_is_refused(monkeypatch, name):
    """A name with a typo would else be a default that nobody chose."""
    monkeypatch.setenv(name, "secret")
    with pytest.raises(SettingsError, match="HOF-601") as found:
        load_settings()
    assert "secret" not in str(found.value)


def test_variables_of_other_things_are_let_be(monkeypatch):
    """`HOF_DEBUG` is none of the sections', and what others have is theirs."""
    for name in ("HOF_DEBUG", "HOFFLIGHT__X", "KAFKA__BOOTSTRAP", "HOF_DEMO_DIR"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HOF_KAFKA__PARTITIONS", "3")
    assert load_settings().kafka.partitions == 3
