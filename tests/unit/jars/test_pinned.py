"""The sets name what they should: every jar a sum, and nothing twice beside pyspark's own."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pyspark
import pytest

from hofflight.jars.pinned import SETS, SPARK_CONNECTOR

PYSPARKS_OWN = {path.name for path in (Path(pyspark.__file__).parent / "jars").glob("*.jar")}


def artifact(jar):
    """`kafka-clients` of `kafka-clients-3.9.2.jar`; `-0-10` in a name is no version."""
    return re.split(r"-\d+\.", jar, maxsplit=1)[0]


@pytest.mark.parametrize("name", SETS)
def test_each_jar_has_a_sum_and_stands_once(name):
    sums = SETS[name].sha256s()

    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in sums.values())
    assert len({artifact(jar) for jar in sums}) == len(sums) > 0


@pytest.mark.parametrize("name", SETS)
def test_the_folder_in_the_cache_has_the_version_of_the_pom(name):
    """Or an older checkout and a newer one would fetch over each other for ever."""
    project = ET.fromstring(SETS[name].pom.read_text())

    assert SETS[name].name.endswith(f"-{project.findtext('dependencies/dependency/version')}")


def test_the_connector_is_what_pyspark_lacks_and_no_more():
    lacking = {artifact(jar) for jar in SPARK_CONNECTOR.sha256s()}

    assert lacking == {
        "commons-pool2",
        "kafka-clients",
        "spark-sql-kafka-0-10_2.13",
        "spark-token-provider-kafka-0-10_2.13",
    }
    assert not lacking & {artifact(jar) for jar in PYSPARKS_OWN}


@pytest.mark.parametrize(
    "left_out", ["lz4-java", "snappy-java", "zstd-jni", "scala-library", "slf4j-api", "jsr305",
                 "hadoop-client-api", "hadoop-client-runtime", "spark-tags_2.13",
                 "scala-parallel-collections_2.13"],
)  # fmt: skip
def test_what_the_pom_leaves_out_is_in_pysparks_folder(left_out):
    """A new pyspark that drops one of them needs it in the pom."""
    assert left_out in {artifact(jar) for jar in PYSPARKS_OWN}
