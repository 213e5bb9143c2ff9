"""A view is an ordered list of features with pinned versions; the order is the contract."""

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.errors import InvalidName, InvalidView, UnknownColumn, UnknownView, WrongType
from hofflight.features.view import declare_view, implicit_view


def make_group(name, version):
    """A group whose second version has a column more."""
    more = {"twice": hof.col("amount") * 2} if version > 1 else {}
    return hof.feature_group(
        name, version=version, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()},
        output=more, windows={"n": hof.count().over("1h")}, derive={"d": hof.col("n") + 1},
    )  # fmt: skip


GROUPS = {(n, v): make_group(n, v) for n in ("card_tx", "shop_tx") for v in (1, 2)}


def group_of(name, version):
    """The newest version for None, as a registry answers."""
    wanted = version or max((v for n, v in GROUPS if n == name), default=0)
    if (name, wanted) not in GROUPS:
        raise UnknownView(f"no group {name}@{wanted}")
    return GROUPS[name, wanted]


def view_of(features, *, name="fraud", version=1, labels=()):
    return declare_view(name, version, features, labels, group_of)


def test_the_order_given_is_the_order_of_the_vector():
    """A model reads columns by place."""
    view = view_of(["card_tx.d", "card_tx.amount", "card_tx.n"])

    assert view.schema(GROUPS["card_tx", 2]) == pa.schema(
        [("card_tx.d", pa.int64()), ("card_tx.amount", pa.float64()), ("card_tx.n", pa.int64())]
    )


def test_a_star_is_every_column_in_declaration_order():
    """`g.*` is input, output, windows, derive, key and event time included."""
    view = view_of(["card_tx@2.*"])

    assert [f.column for f in view.features] == ["card", "ts", "amount", "twice", "n", "d"]
    assert view.features == implicit_view(GROUPS["card_tx", 2]).features


def test_group_versions_are_pinned_when_the_view_is_made():
    """A group version registered later must not change what a model gets."""
    newest, older = view_of(["card_tx.n"]), view_of(["card_tx@1.n"])

    assert newest.definition()["features"] == ["card_tx@2.n"]
    assert older.group == ("card_tx", 1)


WRONG = [
    ("nothing", [], InvalidView, ["'fraud'", "no feature"]),
    ("unknown group", ["nobody.n"], UnknownView, ["nobody"]),
    ("unknown version", ["card_tx@3.n"], UnknownView, ["card_tx@3"]),
    ("unknown column", ["card_tx.amout"], UnknownColumn, ["'amout'", "did you mean 'amount'"]),
    ("a column of the newer version", ["card_tx@1.twice"], UnknownColumn, ["'twice'"]),
    ("no column", ["card_tx"], InvalidView, ["'card_tx'", "'group.*'"]),
    ("no text", [7], InvalidView, ["7"]),
    ("star in the group", ["*.n"], InvalidView, ["'*.n'"]),
    ("version as text", ["card_tx@new.n"], InvalidView, ["'card_tx@new.n'"]),
    ("twice", ["card_tx.n", "card_tx@2.n"], InvalidView, ["card_tx@2.n", "more than once"]),
    ("twice by star", ["card_tx.*", "card_tx.n"], InvalidView, ["more than once"]),
    ("two versions", ["card_tx@1.n", "card_tx@2.d"], InvalidView,
     ["'fraud'", "card_tx@1", "card_tx@2", "one version"]),
    ("the newest and another", ["shop_tx.n", "card_tx.n", "card_tx@1.d"], InvalidView,
     ["card_tx@2", "card_tx@1", "one version"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("features", "error", "words"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_a_view_that_selects_wrongly_is_refused(features, error, words):
    """The text says which feature and what to write instead."""
    with pytest.raises(error) as caught:
        view_of(features)

    assert [word for word in words if word not in str(caught.value)] == []


def test_names_and_versions_of_views_and_labels_are_checked():
    """A view's name becomes part of addresses and files."""
    for bad in ("Fraud", "", "a.b", "fraud\n", None):
        with pytest.raises(InvalidName, match="HOF-101"):
            view_of(["card_tx.n"], name=bad)
        with pytest.raises(InvalidName, match="HOF-101"):
            view_of(["card_tx.n"], labels=[bad])
    for bad in (0, True, "1", None):
        with pytest.raises(WrongType, match="version"):
            view_of(["card_tx.n"], version=bad)


@pytest.mark.parametrize("labels", [["split"], ["request_id"], ["card"], ["ts"], ["a", "a"]])
def test_a_label_is_no_column_that_finds_its_row(labels):
    """A training table would have two columns of one name."""
    with pytest.raises(InvalidView, match="HOF-108"):
        view_of(["card_tx.*"], labels=labels)
