"""The manifest is the one thing that says what is sealed, and it changes in one step."""

import json
import threading

import pyarrow as pa
import pytest

from hofflight.errors import SealDamaged
from hofflight.replay.sealed import Manifest, SealedFile, SealedLog, in_range


def sealed_file(first, last, *, version=1, day="2026-05-01"):
    folder = f"version={version}/day={day}" if version else "voids"
    path = f"{folder}/{first:019d}-{last:019d}.parquet"
    return SealedFile(path, version, first, last, 1, 100)


@pytest.fixture
def log(tmp_path):
    (tmp_path / "g.1").mkdir()
    return SealedLog(tmp_path / "g.1")


def test_nothing_is_sealed_where_there_is_no_manifest(tmp_path):
    """Nor a folder."""
    assert SealedLog(tmp_path / "gone").manifest() == Manifest()
    assert SealedLog(tmp_path / "gone").name == "gone"


def test_a_manifest_is_read_as_it_was_published(log):
    """Readable by people, too; several files of one stretch, then the next."""
    files = (
        sealed_file(1, 9), sealed_file(1, 9, version=2), sealed_file(1, 9, version=0),
        sealed_file(1, 9, day="2026-05-02"), sealed_file(10, 10), sealed_file(11, 40, version=0),
    )  # fmt: skip
    log.publish(Manifest(sealed_to=40, files=files))

    assert log.manifest() == Manifest(sealed_to=40, files=files)
    assert json.loads(log.path.read_text())["sealed_to"] == 40
    assert log.path.read_text().count("\n") > 10
    assert list(log.directory.glob("*.tmp")) == []


@pytest.mark.parametrize(
    ("files", "sealed_to"),
    [
        ([sealed_file(2, 9)], 9), ([sealed_file(1, 9), sealed_file(11, 12)], 12),
        ([sealed_file(1, 9), sealed_file(5, 12)], 12), ([sealed_file(1, 9), sealed_file(1, 9)], 9),
        ([sealed_file(1, 9), sealed_file(1, 5)], 9), ([sealed_file(1, 9)], 8),
        ([sealed_file(1, 9)], 10), ([], 1), ([sealed_file(5, 4)], 4),
        ([sealed_file(10, 12), sealed_file(1, 9)], 12), ([sealed_file(0, 0)], 0),
        ([sealed_file(1, 9), sealed_file(10, 12), sealed_file(1, 9, version=2)], 12),
    ],
)  # fmt: skip
def test_stretches_that_do_not_follow_each_other_are_refused(log, files, sealed_to):
    """A gap is missing rows, an overlap is rows that count twice."""
    log.publish(Manifest(sealed_to=sealed_to, files=tuple(files)))

    with pytest.raises(SealDamaged, match=r"HOF-506.*g\.1"):
        log.manifest()


def test_readers_see_one_manifest_or_the_next(log):
    """While it is published again and again."""
    manifests = [
        Manifest(sealed_to=n, files=tuple(sealed_file(i, i) for i in range(1, n + 1)))
        for n in range(1, 60)
    ]
    stop, seen, errors = threading.Event(), set(), []

    def read():
        while not stop.is_set():
            try:
                seen.add(log.manifest().sealed_to)
            except Exception as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for manifest in manifests:
        log.publish(manifest)
    stop.set()
    reader.join()

    assert errors == []
    assert seen <= set(range(60))


def test_orphans_are_what_looks_like_ours_and_is_not_listed(log):
    """Other files are somebody else's."""
    listed = sealed_file(1, 9)
    log.publish(Manifest(sealed_to=9, files=(listed,)))
    folder = (log.directory / listed.path).parent
    folder.mkdir(parents=True)
    for path in (log.directory / listed.path, folder / "x.parquet", folder / "y.parquet.tmp",
                 folder / "README", log.directory / "lock"):  # fmt: skip
        path.touch()

    found = {path.name for path in log.orphans(log.manifest())}
    assert found == {"x.parquet", "y.parquet.tmp"}


def test_rows_of_a_range_are_cut_by_record_not_by_row():
    """After one number, up to the other."""
    seqs = [number << 20 | row for number in (1, 2, 3, 2**40) for row in (0, 1, 2**20 - 1)]
    batch = pa.RecordBatch.from_pydict({"_seq": pa.array(seqs, pa.int64())})

    assert in_range(batch, 0, 2**41) is batch
    found = in_range(batch, 1, 3).column("_seq").to_pylist()
    assert sorted({seq >> 20 for seq in found}) == [2, 3]
    assert len(found) == 6
    assert in_range(batch.slice(0, 0), 0, 9).num_rows == 0
