"""Kafka's own classes give a key the same hash and the same partition."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from hofflight.jars import kafka_jars
from hofflight.jars.java import find_java, java_environment
from hofflight.wire.key_hash import murmur2, partition_of

GOLDEN = Path(__file__).parents[1] / "golden" / "key_hash.json"
PARTITIONS = (1, 3, 16, 1_000)
# Of each line's key: its hash, then the partition that the default partitioner gives it.
PROGRAM = """
import java.util.HexFormat;
import java.util.Scanner;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.utils.Utils;

public class KeyHash {
    public static void main(String[] partitions) {
        Scanner lines = new Scanner(System.in);
        while (lines.hasNextLine()) {
            byte[] key = HexFormat.of().parseHex(lines.nextLine());
            StringBuilder said = new StringBuilder();
            said.append(Integer.toUnsignedString(Utils.murmur2(key)));
            for (String count : partitions) {
                int of = BuiltInPartitioner.partitionForKey(key, Integer.parseInt(count));
                said.append(' ').append(of);
            }
            System.out.println(said);
        }
    }
}
"""


@pytest.fixture(scope="module")
def of_java(tmp_path_factory):
    """Keys through one Java: (hash, partitions) of each. Java runs a source file as it is."""
    source = tmp_path_factory.mktemp("java") / "KeyHash.java"
    source.write_text(PROGRAM)
    java = find_java()
    class_path = os.pathsep.join(map(str, kafka_jars()))

    def ask(keys):
        run = subprocess.run(
            [java.program, "-cp", class_path, source, *map(str, PARTITIONS)],
            input="".join(f"{key.hex()}\n" for key in keys),
            env=java_environment(java),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert run.returncode == 0, f"this needs a JDK, not a JRE alone\n{run.stderr}"
        found = [[int(word) for word in line.split()] for line in run.stdout.splitlines()]
        return [(hash_, tuple(partitions)) for hash_, *partitions in found]

    return ask


def of_ours(key):
    key_hash = murmur2(key)
    return key_hash, tuple(partition_of(key_hash, count) for count in PARTITIONS)


def test_the_golden_vectors_are_kafkas(of_java):
    """What the file says, asked of Kafka without our code between."""
    vectors = json.loads(GOLDEN.read_text(encoding="ascii"))
    found = of_java([bytes.fromhex(vector["key"]) for vector in vectors])

    assert [hash_ for hash_, _ in found] == [vector["key_hash"] for vector in vectors]
    for vector, (_, partitions) in zip(vectors, found, strict=True):
        by_count = {str(n): p for n, p in zip(PARTITIONS, partitions, strict=True)}
        assert {n: by_count[n] for n in vector["partitions"]} == vector["partitions"]


def test_keys_of_every_length_have_kafkas_hash_and_partition(of_java):
    """Random bytes: whole words, the rest after them, and the sign of Java's bytes."""
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    sizes = [*range(210), *[12] * 500, 1_000, 4_097]
    keys = [draw.randbytes(size) for size in sizes] + [b"\xff" * n for n in range(9)]

    assert of_java(keys) == [of_ours(key) for key in keys], f"seed {seed}"
