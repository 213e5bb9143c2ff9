"""What a query is told: our settings as Kafka's Java client takes them, and where it begins."""

import json
from pathlib import Path

import pytest

from hofflight.errors import SettingsError
from hofflight.settings import KafkaSettings
from hofflight.spark_bridge import query
from hofflight.spark_bridge.executor_side import Place
from hofflight.spark_bridge.query import drop_uncommitted, kafka_options, spark_url


def options(**settings):
    return kafka_options(KafkaSettings(bootstrap="a:1,b:2", **settings))


def login(**settings):
    return options(security="SASL_SSL", username="me", **settings)["kafka.sasl.jaas.config"]


@pytest.fixture
def pem(tmp_path):
    """A file for each part, with its own name in it."""

    def make(name):
        path = tmp_path / name
        path.write_text(f"-----BEGIN {name}-----\n")
        return path

    return make


def test_without_security_there_is_only_an_address():
    assert options() == {
        "kafka.bootstrap.servers": "a:1,b:2",
        "kafka.security.protocol": "PLAINTEXT",
    }


@pytest.mark.parametrize(
    ("mechanism", "module"),
    [
        ("PLAIN", "plain.PlainLoginModule"),
        ("SCRAM-SHA-256", "scram.ScramLoginModule"),
        ("SCRAM-SHA-512", "scram.ScramLoginModule"),
    ],
)
def test_each_mechanism_has_its_login(mechanism, module):
    found = options(
        security="SASL_PLAINTEXT", username="me", password="secret", sasl_mechanism=mechanism
    )
    assert found["kafka.sasl.mechanism"] == mechanism
    assert found["kafka.sasl.jaas.config"] == (
        f'org.apache.kafka.common.security.{module} required username="me" password="secret";'
    )


@pytest.mark.parametrize(
    ("secret", "written"),
    [
        ('a"b', r'"a\"b"'),
        ("a\\b", r'"a\\b"'),
        ('";evil="1', r'"\";evil=\"1"'),
        ("a;b c='d'", "\"a;b c='d'\""),
        ("\\", r'"\\"'),
        ("ü€", '"ü€"'),
    ],
)
def test_a_password_is_one_value_whatever_is_in_it(secret, written):
    """Else the rest of it would be options of the login, and in the client's log."""
    assert login(password=secret).endswith(f"password={written};")


def test_certificates_are_given_as_text(pem):
    """Files of the driver's machine are none of an executor's."""
    found = options(
        security="SSL", tls_ca=pem("ca"), tls_certificate=pem("certificate"), tls_key=pem("key")
    )
    assert {name: found[name] for name in found if ".ssl." in name} == {
        "kafka.ssl.truststore.type": "PEM",
        "kafka.ssl.truststore.certificates": "-----BEGIN ca-----\n",
        "kafka.ssl.keystore.type": "PEM",
        "kafka.ssl.keystore.certificate.chain": "-----BEGIN certificate-----\n",
        "kafka.ssl.keystore.key": "-----BEGIN key-----\n",
    }


def test_a_cluster_that_knows_us_by_a_password_gets_no_certificate(pem):
    found = options(security="SASL_SSL", username="me", password="x", tls_ca=pem("ca"))
    assert not [name for name in found if "keystore" in name]
    assert found["kafka.ssl.truststore.certificates"] == "-----BEGIN ca-----\n"


@pytest.mark.parametrize(
    ("checkpoint", "url"),
    [
        ("s3://bucket/a/b", "s3a://bucket/a/b"),
        ("s3a://bucket/a", "s3a://bucket/a"),
        ("gs://bucket/s3://x", "gs://bucket/s3://x"),
        ("abfs://container@account/a", "abfs://container@account/a"),
        ("hdfs://name:8020/a", "hdfs://name:8020/a"),
        ("file:///mnt/a", "file:///mnt/a"),
        ("/mnt/a", "file:///mnt/a"),
        ("/mnt/a/../b/", "file:///mnt/b"),
    ],
)
def test_an_address_is_said_as_hadoop_knows_it(checkpoint, url):
    """What has no scheme would be a path of its default file system, which may be a cluster's."""
    assert spark_url(checkpoint) == url


@pytest.mark.parametrize("checkpoint", ["copies", "./copies", "x/../copies"])
def test_a_path_is_one_of_the_folder_that_we_are_in(tmp_path, monkeypatch, checkpoint):
    monkeypatch.chdir(tmp_path)
    assert spark_url(checkpoint) == f"file://{tmp_path}/copies"


class Jvm:
    """As much of Hadoop's file system, and of a session that leads to it, as is asked for."""

    def __init__(self, deleted):
        self._jvm = self._jsc = self.org = self.apache = self.hadoop = self.fs = self
        self.deleted = deleted

    def hadoopConfiguration(self):
        return self

    def Path(self, text):
        return File(Path(text), self)


class File:
    def __init__(self, path, jvm):
        self.path, self.jvm = path, jvm

    def getFileSystem(self, _):
        return self

    def exists(self, file):
        return file.path.exists()

    def listStatus(self, file):
        return [File(path, self.jvm) for path in file.path.iterdir()]

    def getPath(self):
        return self

    def getName(self):
        return self.path.name

    def delete(self, file, _):
        self.jvm.deleted.append(file.path)


@pytest.mark.parametrize(
    ("files", "is_dropped"),
    [
        (None, False),
        ([], True),
        (["offsets/0"], True),
        (["offsets/0", "commits/.0.crc"], True),
        (["offsets/0", "commits/0"], False),
    ],
)
def test_a_checkpoint_without_a_commit_is_dropped(tmp_path, files, is_dropped):
    """Spark does not start from an offset that no commit followed."""
    checkpoint, deleted = tmp_path / "checkpoint", []
    if files is not None:
        checkpoint.mkdir()
    for name in files or ():
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).touch()

    assert drop_uncommitted(Jvm(deleted), str(checkpoint)) == is_dropped
    assert deleted == [checkpoint] * is_dropped


class Source:
    """What Spark's reader does without a connector, or for another reason."""

    def __init__(self, message):
        self.message = message

    def load(self):
        raise RuntimeError(self.message)


def test_a_missing_connector_is_said_in_words_and_another_error_stays_what_it_is():
    with pytest.raises(SettingsError, match="--jars"):
        query._loaded(Source("Failed to find data source: kafka. Please deploy the application"))
    with pytest.raises(RuntimeError, match="disk"):
        query._loaded(Source("no disk"))


class Chain:
    """Spark's builders: whatever is called gives itself; options are kept."""

    def __init__(self):
        self.environment, self.kept = {}, {}

    def __getattr__(self, _):
        return self

    def __call__(self, *arguments, **_):
        if len(arguments) == 2:
            self.kept[arguments[0]] = arguments[1]
        return self


@pytest.mark.parametrize("mode", ["realtime", "microbatch"])
def test_a_checkpoint_that_is_begun_anew_begins_where_it_did(tmp_path, monkeypatch, mode):
    """Answers of its first trigger may not have left; all before it have."""
    plan = query.QueryPlan(KafkaSettings(), "file:///c", {}, mode)
    place, log, found = Place("g.1", 3, "hof"), tmp_path / "log", []
    for is_dropped, offset in [(True, 5), (False, 7), (True, 50), (True, 60), (False, 80)]:
        monkeypatch.setattr(query, "drop_uncommitted", lambda *_, gone=is_dropped: gone)
        spark = Chain()
        query.start_query(spark, plan, place, print, None, offset, log)
        found.append(json.loads(spark.kept["startingOffsets"])["hof.in.g.1"]["3"])
    assert found == [query.EARLIEST, 7, 7, 7, 80]
