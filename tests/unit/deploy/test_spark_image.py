"""The image of Spark's driver, on top of that of servers: read, and its entrypoint run."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.unit.deploy.manifests import REPO, SPARK, pod_of
from tests.unit.deploy.test_image import instructions, is_ignored, rest_of

ALL = instructions((REPO / "deploy/spark.dockerfile").read_text(encoding="utf-8"))
LAST_STAGE = ALL[max(place for place, (name, _) in enumerate(ALL) if name == "FROM") :]
ENTRYPOINT = REPO / "deploy/spark-entrypoint.sh"


def test_it_is_the_servers_image_and_more():
    (base,) = rest_of("ARG", ALL)

    assert re.fullmatch(r"BASE=registry\.example\.org/hofflight:[\d.]+", base)
    assert [rest.split(" AS ")[0] for rest in rest_of("FROM", ALL)] == ["${BASE}", "${BASE}"]


def test_every_package_and_jar_is_pinned():
    installs = [
        step for run in rest_of("RUN", ALL) for step in run.split("&&") if "pip install" in step
    ]
    fetches = [run for run in rest_of("RUN", ALL) if "hofflight.jars" in run]

    assert [step for step in installs if "--require-hashes" not in step] == []
    assert "python -m hofflight.jars spark" in fetches[0]
    assert not any("packages" in run for run in rest_of("RUN", ALL))


def test_what_is_copied_is_there_and_not_left_out():
    sources = [
        next(word for word in rest.split() if not word.startswith("--"))
        for rest in rest_of("COPY", ALL)
        if "--from=" not in rest
    ]

    assert [source for source in sources if not (REPO / source).exists()] == []
    # Of a folder that is let in, so is what is in it.
    ways = [(source, *map(str, Path(source).parents[:-1])) for source in sources]
    assert [way for way in ways if all(map(is_ignored, way))] == []


def test_the_user_is_the_one_of_the_pod_and_has_a_name():
    context = pod_of(SPARK)["securityContext"]
    (user,) = rest_of("USER", LAST_STAGE)[-1:]

    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert any(f"useradd --uid {context['runAsUser']}" in run for run in rest_of("RUN", LAST_STAGE))


def test_its_entrypoint_is_the_script():
    (entrypoint,) = rest_of("ENTRYPOINT", LAST_STAGE)
    copied = [rest for rest in rest_of("COPY", LAST_STAGE) if ENTRYPOINT.name in rest]

    assert json.loads(entrypoint) == ["spark-entrypoint"]
    assert copied[0].endswith("/opt/hofflight/bin/spark-entrypoint")
    assert os.access(ENTRYPOINT, os.X_OK)


@pytest.mark.parametrize(
    ("arguments", "run"),
    [
        (["spark", "--once"], "hof spark --once"),
        ([], "hof"),
        (
            ["driver", "--properties-file", "p", "main.py", "spark"],
            "spark-submit --deploy-mode client --jars {jar} --properties-file p main.py spark",
        ),
    ],
    ids=["hof", "nothing", "driver"],
)
def test_the_entrypoint_is_hof_or_what_spark_asks_for(tmp_path, arguments, run):
    jar = tmp_path / "cache/hofflight/spark-kafka-4.2.0/spark-sql-kafka.jar"
    for path in (jar, tmp_path / "cache/hofflight/kafka-4.3.0/broker.jar"):
        path.parent.mkdir(parents=True)
        path.touch()
    for name in ("hof", "spark-submit"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        program.chmod(0o755)
    done = subprocess.run(
        [ENTRYPOINT, *arguments],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "XDG_CACHE_HOME": f"{tmp_path}/cache"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.strip() == run.format(jar=jar)
