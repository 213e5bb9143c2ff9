"""Damage to sealed files is named, file and column, and never becomes a shorter history."""

import contextlib
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from hofflight.errors import HistoryMissing, HofError, SealDamaged

S = 1_000_000
START = 1_780_000_000 * S
NAME = 'it\'s a "store", view=../x'


def make_group(version=1):
    return hof.feature_group(
        "g", version=version, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.float64(), "s": pa.string()},
        windows={"n": hof.count().over("1h"), "top": hof.top_k("s", 2).over("1h")},
    )  # fmt: skip


class Sealed:
    """A store that was sealed, in a folder with an odd name, and nothing is left in its log."""

    def __init__(self, directory):
        self.path = directory / NAME
        with self.open() as app:
            for number in range(60):
                row = {"card": number % 4, "ts": START + number * S, "x": 0.5, "s": "ab" * number}
                app.vector("g", row, version=1 + number % 2)
                if number == 30:
                    app.seal()
            with pytest.raises(HofError):
                app.vector("g", {"card": None, "ts": START, "x": 0.0, "s": None}, version=1)
            app.seal()
        self.directory = self.path / "sealed/g.1"
        self.manifest_path = self.directory / "manifest.json"

    def open(self):
        settings = hof.load_settings(log={"seal_bytes": 0, "seal_age_s": 0})
        app = hof.open(self.path, settings=settings)
        app.register(make_group())
        app.register(make_group(2))
        return app

    def read(self, *, answers=None):
        """Rows of the whole history, and how many voids there are."""
        with self.open() as app:
            history = app.offline().history_of("g.1")
            rows = sum(part.rows.num_rows for part in history.parts(answers=answers))
            return rows, len(list(history.voids(0, history.extent().last)))

    @property
    def manifest(self):
        return json.loads(self.manifest_path.read_bytes())

    def change(self, **changes):
        self.manifest_path.write_text(json.dumps(self.manifest | changes))

    def a_file(self, kind):
        """Entry and path of the last listed file of rows, or of voids."""
        found = [f for f in self.manifest["files"] if (f["version"] > 0) == (kind == "rows")]
        return found[-1], self.directory / found[-1]["path"]

    def rewrite(self, kind, change):
        """Another Parquet file in place of one, with the manifest saying it has that size."""
        entry, path = self.a_file(kind)
        pq.write_table(change(pq.ParquetFile(path).read()), path, write_page_checksum=True)
        files = self.manifest["files"]
        files[files.index(entry)]["bytes"] = path.stat().st_size
        self.change(files=files)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return Sealed(tmp_path_factory.mktemp("template"))


@pytest.fixture
def sealed(template, tmp_path):
    """A copy of the sealed store, to be damaged."""
    shutil.copytree(template.path, tmp_path / NAME)
    copy = object.__new__(Sealed)
    copy.path = tmp_path / NAME
    copy.directory = copy.path / "sealed/g.1"
    copy.manifest_path = copy.directory / "manifest.json"
    return copy


def test_a_path_of_any_letters_is_a_store(sealed):
    """Quotes, spaces and what looks like a partition."""
    assert sealed.read() == (60, 1)
    assert sealed.read(answers=1) == (60, 1)


FILE_DAMAGE = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "cut by a byte": lambda data: data[:-1],
    "cut in half": lambda data: data[: len(data) // 2],
    "zeros of the same size": lambda data: bytes(len(data)),
    "longer": lambda data: data + b"\0",
    "a bit of its first page flipped": lambda data: flipped(data, 60),
    "a bit of its end flipped": lambda data: flipped(data, len(data) - 10),
}


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


@pytest.mark.parametrize("kind", ["rows", "voids"])
@pytest.mark.parametrize("how", FILE_DAMAGE)
def test_a_damaged_file_is_named(sealed, how, kind):
    """Nothing is read in its place."""
    entry, path = sealed.a_file(kind)
    data = FILE_DAMAGE[how](path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)

    with pytest.raises(SealDamaged, match="HOF-506") as caught:
        sealed.read()
    assert entry["path"] in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("place", range(4, 4_000, 199))
def test_no_flipped_bit_changes_what_is_read(sealed, place):
    """Page checksums, sizes, or at least the same rows: a flip is an error or nothing at all."""
    _, path = sealed.a_file("rows")
    with sealed.open() as app:
        before = rows_of(app)
    data = path.read_bytes()
    path.write_bytes(flipped(data, place % len(data)))

    with sealed.open() as app, contextlib.suppress(SealDamaged):
        assert rows_of(app) == before


def rows_of(app):
    history = app.offline().history_of("g.1")
    found = [row for part in history.parts(answers=1) for row in part.rows.to_pylist()]
    return sorted(map(repr, found))


def test_a_copy_under_another_name_is_ignored(sealed):
    """Only the manifest says what is there; the next seal removes the rest."""
    _, path = sealed.a_file("rows")
    copy = path.with_name(f"{1:019d}-{999:019d}.parquet")
    shutil.copy(path, copy)

    assert sealed.read() == (60, 1)
    with sealed.open() as app:
        app.seal()
    assert not copy.exists()
    assert sealed.read() == (60, 1)


def retyped(column, column_type):
    def change(table):
        place = table.schema.get_field_index(column)
        return table.set_column(place, column, table[column].cast(column_type))

    return change


COLUMNS = {
    "missing": ("x", lambda table: table.drop_columns(["x"])),
    "of the rows' order missing": ("_seq", lambda table: table.drop_columns(["_seq"])),
    "added": ("extra", lambda table: table.append_column("extra", table["x"])),
    "retyped": ("x", retyped("x", pa.float32())),
    "of large text": ("s", retyped("s", pa.large_string())),
    "of another time zone": ("ts", retyped("ts", pa.timestamp("us", tz="Europe/Berlin"))),
    "of another unit": ("ts", retyped("ts", pa.timestamp("ms", tz="UTC"))),
    "of answers missing": ("_answer", lambda table: table.drop_columns(["_answer"])),
}


@pytest.mark.parametrize("how", COLUMNS)
def test_a_file_of_other_columns_is_named_with_the_column(sealed, how):
    """Even where its size is as it was."""
    column, change = COLUMNS[how]
    sealed.rewrite("rows", change)

    with pytest.raises(SealDamaged) as caught:
        sealed.read()
    assert sealed.a_file("rows")[0]["path"] in str(caught.value)
    assert column in str(caught.value)


def test_a_file_of_voids_with_another_column_is_named(sealed):
    """As one of rows is."""
    sealed.rewrite("voids", lambda table: table.drop_columns(["body"]))

    with pytest.raises(SealDamaged, match="'body'"):
        sealed.read()


def test_a_file_of_fewer_rows_is_named(sealed):
    """The manifest knows how many were sealed."""
    sealed.rewrite("rows", lambda table: table.slice(1))

    with pytest.raises(SealDamaged, match=r"rows, .* were sealed"):
        sealed.read()


def first_file(**changes):
    def change(manifest):
        manifest["files"][0] |= changes

    return change


def appended(manifest):
    manifest["files"].append(manifest["files"][-1])


def dropped(manifest):
    for entry in [f for f in manifest["files"] if f["first"] == 1]:
        manifest["files"].remove(entry)


def last_dropped(manifest):
    newest = manifest["files"][-1]["first"]
    manifest["files"] = [f for f in manifest["files"] if f["first"] != newest]


MANIFESTS = {
    "another format": lambda manifest: manifest.update(format=2),
    "an unknown field": lambda manifest: manifest.update(more=1),
    "text for a number": lambda manifest: manifest.update(sealed_to="61"),
    "a file listed twice": appended,
    "a seal's files left out": dropped,
    "the newest seal's files left out": last_dropped,
    "more sealed than its files hold": lambda manifest: manifest.update(sealed_to=70),
    "less sealed than its files hold": lambda manifest: manifest.update(sealed_to=40),
    "a path above the folder": first_file(path="../../registry.sqlite"),
    "a path that climbs": first_file(path="version=1/day=../../x.parquet"),
    "an absolute path": first_file(path="/etc/passwd"),
    "a path of another version": first_file(version=2),
    "a path of other records": first_file(last=60),
    "a negative version": first_file(version=-1),
    "fewer rows": first_file(rows=3),
    "another size": first_file(bytes=3),
}


@pytest.mark.parametrize("how", MANIFESTS)
def test_a_manifest_that_says_something_else_is_refused(sealed, how):
    """Whoever changed it: no row is read twice, none is silently missing."""
    manifest = sealed.manifest
    MANIFESTS[how](manifest)
    sealed.manifest_path.write_text(json.dumps(manifest))

    with pytest.raises(SealDamaged, match="HOF-506"):
        sealed.read()


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"{}x", bytes(9)])
def test_a_manifest_that_is_none_is_refused(sealed, data):
    """And says that it is the manifest."""
    sealed.manifest_path.write_bytes(data)

    with pytest.raises(SealDamaged, match=r"manifest"):
        sealed.read()
    with pytest.raises(SealDamaged), sealed.open() as app:
        app.seal()


def test_a_damaged_manifest_neither_stops_serving_nor_closing(sealed):
    """The engine has its snapshot; the trim at the end is left out."""
    sealed.manifest_path.write_bytes(b"{")

    with sealed.open() as app:
        row = {"card": 1, "ts": START + 61 * S, "x": 0.5, "s": "a"}
        assert app.vector("g", row, version=1).to_dict()["g.n"] == 16


def test_sealed_files_that_are_gone_with_what_was_trimmed_are_missed(sealed):
    """Neither snapshot nor history: the windows are not made up of what is left."""
    with sealed.open() as app:
        log = app.engine._works["g.1"].partition.log
        log._settings = log._settings.model_copy(update={"segment_bytes_max": 1})
        app.vector("g", {"card": 1, "ts": START + 61 * S, "x": 0.5, "s": "a"}, version=1)
        assert log.trim(61)
    shutil.rmtree(sealed.directory)
    shutil.rmtree(sealed.path / "snapshots")

    with pytest.raises(HistoryMissing, match="HOF-508"):
        sealed.open()
