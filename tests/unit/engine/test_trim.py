"""A log may forget what is sealed and what no snapshot and no id needs; no answer changes by it."""

import pytest

import hofflight as hof
from hofflight.errors import HistoryMissing, HofError, IdReused, SealDamaged

S = 1_000_000
SETTINGS = {"ids_max": 10, "snapshot_records": 20}
NO_SEALER = {"seal_bytes": 0, "seal_age_s": 0}


@pytest.fixture
def open_trimming(stores):
    """Opens the test's store with segments of some entries only."""

    def open_trimming(*groups, **options):
        app = stores.open(log=NO_SEALER, **{**SETTINGS, **options})
        for group in groups:
            app.register(group)
            shorten(app)
        return app

    return open_trimming


def shorten(app):
    for work in app.engine._works.values():
        log = work.partition.log
        log._settings = log._settings.model_copy(update={"segment_bytes_max": 3_000})


def send(app, numbers, event, **options):
    """What the answers to some events were, each with an id of its own."""
    found = []
    for number in numbers:
        id_ = number.to_bytes(16, "big")
        vector = app.vector("g", event(number % 5, number * 7, number), request_id=id_, **options)
        found.append(repr(vector.to_dict()))
    return found


def first_number(app):
    return app.engine._works["g.1"].partition.log.first_number()


LIFE = {
    "n": hof.count().over("1h"), "sum": hof.sum("x").over("10m"), "life": hof.mean("x").lifetime(),
    "std": hof.std("x").over("1d", tile="1h"), "session": hof.count().session("1m"),
}  # fmt: skip


def test_trim_forgets_what_is_sealed_and_no_longer_needed(stores, open_trimming, group, event):
    """And frees its bytes; the rest of the log stays."""
    app = open_trimming(group(windows=LIFE, derive={}))
    send(app, range(100), event)
    assert first_number(app) == 1
    app.seal()

    assert 1 < first_number(app) <= 80
    log = app.engine._works["g.1"].partition.log
    assert [m.number for _, m in log.read_meta()] == list(range(first_number(app), 101))
    assert sum(part.rows.num_rows for part in app.offline().history("g").parts()) == 100


def test_nothing_unsealed_is_trimmed(open_trimming, group, event):
    """What is in no other place stays, whatever snapshots there are."""
    app = open_trimming(group(windows=LIFE, derive={}))
    send(app, range(100), event)

    assert app.engine.trim(lambda _: 0) == 0
    app.engine.trim(lambda _: 17)
    assert first_number(app) <= 18


def test_nothing_after_the_oldest_snapshot_is_trimmed(open_trimming, group, event):
    """The newest may be damaged one day; and without any, all is needed."""
    app = open_trimming(group(windows=LIFE, derive={}), snapshot_records=10_000)
    send(app, range(100), event)
    app.seal()

    assert list((app.path / "snapshots").rglob("*.snap")) == []
    assert first_number(app) == 1


def test_ids_that_are_remembered_keep_their_answers(open_trimming, group, event):
    """Asked again, the same answer out of the log; another payload is refused."""
    app = open_trimming(group(windows=LIFE, derive={}))
    answers = send(app, range(100), event)
    app.seal()
    assert first_number(app) > 1

    assert send(app, range(90, 100), event) == answers[90:]
    with pytest.raises(IdReused):
        app.vector("g", event(1, 1, 999), request_id=(95).to_bytes(16, "big"))


def test_a_store_that_is_often_restarted_is_trimmed_too(open_trimming, group, event):
    """Ids that were forgotten before a restart are not needed after it."""
    for start in range(0, 120, 12):
        app = open_trimming(group(windows=LIFE, derive={}))
        answers = send(app, range(start, start + 12), event)
        app.seal()
        assert send(app, range(start + 2, start + 12), event) == answers[2:]
        app.close()

    assert first_number(open_trimming(group(windows=LIFE, derive={}))) > 60


@pytest.mark.parametrize("crash", [False, True], ids=["closed", "killed"])
def test_a_restart_after_a_trim_answers_the_same(stores, open_trimming, group, event, crash):
    """From snapshots and what is left of the log, again and again."""
    plain = stores.open(group(windows=LIFE, derive={}), path=stores.directory / "plain")
    for start in range(0, 200, 50):
        numbers = range(start, start + 50)
        app = open_trimming(group(windows=LIFE, derive={}))
        assert send(app, numbers, event) == send(plain, numbers, event)
        app.seal()
        if crash:
            again = stores.crashed(group(windows=LIFE, derive={}), log=NO_SEALER, **SETTINGS)
            ahead = range(start + 50, start + 60)
            expected = send(plain, ahead, event, store=False)
            assert send(again, ahead, event, store=False) == expected
        app.close()
    assert first_number(open_trimming(group(windows=LIFE, derive={}))) > 50


def test_a_version_registered_after_a_trim_answers_as_if_it_had_been_there(
    stores, open_trimming, group, event
):
    """Its windows are made of the sealed history and of the log."""
    newer = group(version=2, windows={**LIFE, "top": hof.top_k("x", 2).over("2h")}, derive={})
    plain = stores.open(group(windows=LIFE, derive={}), newer, path=stores.directory / "plain")
    app = open_trimming(group(windows=LIFE, derive={}))
    assert send(app, range(100), event, version=1) == send(plain, range(100), event, version=1)
    app.seal()
    send(app, range(100, 110), event, version=1)
    send(plain, range(100, 110), event, version=1)
    assert first_number(app) > 1

    app.register(newer)
    numbers = range(110, 140)
    assert send(app, numbers, event, version=2) == send(plain, numbers, event, version=2)
    app.close()
    again = open_trimming(group(windows=LIFE, derive={}), newer)
    numbers = range(140, 150)
    assert send(again, numbers, event, version=2) == send(plain, numbers, event, version=2)
    assert send(again, range(150, 160), event, version=1) == send(
        plain, range(150, 160), event, version=1
    )


def test_a_version_whose_history_is_gone_is_not_served(open_trimming, group, event):
    """Sealed files were removed: windows of what is left would be wrong, unnoticed."""
    app = open_trimming(group(windows=LIFE, derive={}))
    send(app, range(100), event)
    app.seal()
    manifest = app.path / "sealed/g.1/manifest.json"
    data = manifest.read_bytes()
    manifest.unlink()
    newer = group(version=2, windows=LIFE, derive={})
    with pytest.raises(HistoryMissing, match="HOF-508"):
        app.register(newer)

    manifest.write_bytes(data)
    path = next((app.path / "sealed/g.1").glob("version=1/*/*.parquet"))
    path.unlink()
    with pytest.raises(SealDamaged, match=path.name):
        app.register(newer)
    assert send(app, range(100, 101), event, version=1)


def test_without_a_way_to_rebuild_a_trimmed_log_is_refused(stores, open_trimming, group, event):
    """An engine that has no replay says what is missing."""
    app = open_trimming(group(windows=LIFE, derive={}))
    send(app, range(100), event)
    app.seal()
    app.engine._rebuild = None

    with pytest.raises(HistoryMissing, match=r"g\.1 begins with record"):
        app.register(group(version=2, windows=LIFE, derive={}))


def test_a_registered_version_that_was_refused_serves_once_history_is_back(
    open_trimming, group, event
):
    """Nothing half-made of it stays."""
    app = open_trimming(group(windows=LIFE, derive={}))
    send(app, range(100), event)
    app.seal()
    sealed = app.path / "sealed"
    sealed.rename(app.path / "elsewhere")
    newer = group(version=2, windows=LIFE, derive={})
    with pytest.raises(HistoryMissing, match="HOF-508"):
        app.register(newer)
    with pytest.raises(HofError):
        send(app, range(100, 101), event, version=2)
    (app.path / "elsewhere").rename(sealed)

    app.register(newer)
    expected = send(app, range(200, 201), event, version=1, store=False)
    assert send(app, range(200, 201), event, version=2, store=False) == expected


def test_a_trim_beside_a_trim_removes_each_segment_once(open_trimming, group, event):
    """The sealer's thread and a caller's may meet."""
    import threading

    app = open_trimming(group(windows=LIFE, derive={}))
    send(app, range(200), event)
    app.offline().seal("g.1")
    found, errors = [], []

    def trim():
        try:
            found.append(app.engine.trim(app.offline().sealed_to))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=trim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert first_number(app) > 1


def test_a_log_is_rebuilt_in_bulk_as_folding_would_have_it(stores, group, event):
    """The number of records from which on it is worth it changes no answer."""
    everything = {
        **LIFE, "top": hof.top_k("x", 2).over("2h"), "tumbling": hof.max("x").tumbling("5m"),
        "last": hof.last("x").last(3), "var": hof.var("x").lifetime(own_row=False),
        "distinct": hof.count_distinct("x").over("1h", tile="5m"),
    }  # fmt: skip
    app = stores.open(group(windows=LIFE, derive={}))
    send(app, range(150), event)
    send(app, [500, 305, 501, 310], lambda card, second, x: event(card, second, None))
    folded = group(version=2, windows=everything, derive={})
    rebuilt = group(version=3, windows=everything, derive={})
    app.register(folded)
    numbers = range(600, 640)
    expected = send(app, numbers, event, version=2, store=False)
    app.close()
    again = stores.open(rebuilt, rebuild_records=1)

    assert send(again, numbers, event, version=3, store=False) == expected
