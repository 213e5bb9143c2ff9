"""Every setting, error code and metric stands in docs/reference/, and nothing else does."""

import inspect
import re

from pydantic import BaseModel

import hofflight.errors
import hofflight.settings
from hofflight.observe.metrics import METRICS


def first_cells(page):
    """What a page documents: the backticked name that a heading or a table's row starts with."""
    return set(re.findall(r"^(?:#+|\|)\s*`([^`]+)`", page, flags=re.MULTILINE))


def test_every_setting_is_documented(house):
    """A knob that nobody can find is a trap."""
    assert first_cells(house.text("docs/reference/settings.md")) == setting_names()


def setting_names():
    """Each leaf as `section.field`, from the settings classes that no other one contains."""
    models = {
        value
        for value in vars(hofflight.settings).values()
        if inspect.isclass(value)
        and issubclass(value, BaseModel)
        and value.__module__ == hofflight.settings.__name__
    }
    sections = {
        field.annotation for model in models for field in model.model_fields.values()
    } & models
    bases = {base for model in models for base in model.__mro__[1:]}
    names = set()
    for model in models - sections - bases:
        names |= leaves(model, models, prefix="")
    assert names, "hofflight.settings has no settings class"
    return names


def leaves(model, models, prefix):
    found = set()
    for name, field in model.model_fields.items():
        if field.annotation in models:
            found |= leaves(field.annotation, models, prefix=f"{prefix}{name}.")
        else:
            found.add(f"{prefix}{name}")
    return found


def all_errors(error=hofflight.errors.HofError):
    yield error
    for child in error.__subclasses__():
        if child.__module__.startswith(f"{hofflight.errors.__name__}."):
            yield from all_errors(child)


def test_every_error_has_a_code_of_its_own():
    """A code is what users search for, so it names one error for ever."""
    codes = {}
    for error in all_errors():
        code = vars(error).get("code", "")
        assert re.fullmatch(r"HOF-\d{3}", code), f"{error.__name__} has no code of its own"
        assert codes.setdefault(code, error) is error, f"{code} is taken by {codes[code].__name__}"


def test_every_error_code_is_documented(house):
    """The heading is the code, so a link to it can be made from the error alone."""
    page = house.text("docs/reference/errors.md")
    headings = set(re.findall(r"^#+ .*?\b(HOF-\d{3})\b", page, flags=re.MULTILINE))

    assert headings == {error.code for error in all_errors()}


def test_every_metric_is_documented(house):
    """An operator builds an alert from the page alone."""
    documented = first_cells(house.text("docs/reference/metrics.md"))

    assert {name for name in documented if name.startswith("hof")} == {m.name for m in METRICS}


def test_every_metric_says_what_it_counts():
    """A number without a unit and a sentence is a riddle."""
    riddles = [metric.name for metric in METRICS if not (metric.unit and metric.help)]

    assert riddles == []
