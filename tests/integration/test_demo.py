"""The demos, small: every event answered, numbers that can be, nothing left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Runs `hof demo ARGUMENTS`, and sees that nothing was left."""
    here, temporary = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("temporary")

    def run(*arguments):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOF_")}
        done = subprocess.run(
            [sys.executable, "-m", "hofflight.cli.main", "demo", *arguments],
            cwd=here,
            env={**kept, "PYTHONPATH": str(REPO), "TMPDIR": str(temporary)},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert list(here.iterdir()) == list(temporary.iterdir()) == []
        return done

    return run


@pytest.fixture(scope="module")
def cards(demo):
    """What `hof demo cards --json` prints."""
    return json.loads(demo("cards", "--customers", "40", "--days", "20", "--json").stdout)


def test_cards_answers_every_event(cards):
    assert cards["events"] == cards["answers"] > 500
    assert (cards["errors"], cards["error_codes"], cards["late"]) == (0, [], 0)
    assert (cards["parity_rows"], cards["parity_mismatches"]) == (cards["events"], 0)
    assert 0 < cards["seconds"] < 60
    for latency in cards["latency_us"].values():
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]


def test_cards_loads_customers_twice_while_it_serves(cards):
    """First without some of them, then all of them anew."""
    first, second = cards["loads"]

    assert (first["group"], first["load"], first["rows"], first["keys"]) == (
        "customer.1",
        1,
        36,
        36,
    )
    assert (second["load"], second["rows"], second["keys"], second["known"]) == (2, 40, 40, 0)


def test_cards_verifies_every_part_of_each_answer(cards):
    """Both streaming groups and the stored one."""
    parts = dict.fromkeys(("card_tx", "terminal_tx", "customer"), cards["events"])
    assert cards["parity_parts"] == parts
    assert cards["parity_by_feature"] == {}


def test_cards_shows_vectors_that_can_be(cards):
    assert len(cards["vectors"]) == 3
    for vector in cards["vectors"]:
        one_hot = [value for name, value in vector.items() if name.startswith("card_tx.is_")][:5]
        assert sum(one_hot) == 1
        assert 1 <= vector["card_tx.n_1d"] <= vector["card_tx.n_7d"] <= vector["card_tx.n_30d"]
        assert vector["card_tx.amount_vs_1d"] == pytest.approx(
            vector["card_tx.amount"] / vector["card_tx.mean_1d"]
        )
        assert vector["terminal_tx.n_7d"] >= 1
        # All customers are known since the second load.
        assert vector["customer.segment"] in ("gold", "plain")
        assert vector["customer.age"] is None or 18 <= vector["customer.age"] < 90


def test_cards_for_people_are_tables(demo):
    shown = demo("cards", "--customers", "10", "--days", "5")

    assert "bare echo" in shown.stdout
    assert " 0 errors" in shown.stdout
    assert " answers replayed by DuckDB from the log, 0 mismatches" in shown.stdout
    assert "the parts of each answer that were compared: card_tx " in shown.stdout
    assert "streaming:" in shown.stderr


def test_flights_agree_with_the_oracle(demo):
    result = json.loads(demo("flights", "--limit", "3000", "--json").stdout)

    assert result["events"] == result["answered"] == result["oracle_rows"] == 3_000
    assert (result["parity_rows"], result["parity_mismatches"]) == (3_000, 0)
    assert (result["errors"], result["oracle_mismatches"], result["late"]) == (0, 0, 0)
    assert result["rows_per_s"] > 0
