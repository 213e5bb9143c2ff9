"""The Dockerfile, read instruction by instruction: tests need no Docker."""

import fnmatch
import json
import re
import tomllib

import pytest

from tests.unit.deploy.manifests import NAMES, REPO, RUNNING, SERVE, container_of, pod_of

TEXT = (REPO / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SECRET = re.compile("PASSWORD|TOKEN|SECRET|CREDENTIAL|KEY", re.IGNORECASE)


def instructions(text):
    """(instruction, the rest) of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


ALL = instructions(TEXT)
LAST_STAGE = ALL[max(place for place, (name, _) in enumerate(ALL) if name == "FROM") :]


def rest_of(name, among=ALL):
    return [rest for found, rest in among if found == name]


def test_every_instruction_is_one_of_docker():
    known = {"ARG", "FROM", "WORKDIR", "ENV", "COPY", "RUN", "USER", "VOLUME", "EXPOSE"}

    assert {name for name, _ in ALL} <= known | {"STOPSIGNAL", "ENTRYPOINT", "CMD"}


def test_both_stages_begin_with_one_python_of_an_exact_version():
    (base,) = [rest for rest in rest_of("ARG") if rest.startswith("BASE=")]

    assert re.fullmatch(r"BASE=python:3\.\d+\.\d+-slim-\w+", base)
    assert [rest.split(" AS ")[0] for rest in rest_of("FROM")] == ["${BASE}", "${BASE}"]


def test_that_python_is_one_that_hofflight_runs_on():
    minor = int(re.search(r"python:3\.(\d+)", TEXT)[1])

    assert minor >= int(PROJECT["requires-python"].removeprefix(">=3."))


def test_what_is_copied_is_there_and_not_left_out():
    sources = [
        source
        for rest in rest_of("COPY")
        if not rest.startswith("--from=")
        for source in rest.split()[:-1]
    ]

    assert {"hofflight", "requirements"} <= set(sources)
    assert [source for source in sources if not (REPO / source).exists()] == []
    assert [source for source in sources if is_ignored(source)] == []


@pytest.mark.parametrize("path", [".git", ".venv", "store", "deploy", "tests", "key.pem"])
def test_nothing_else_gets_near_the_image(path):
    assert is_ignored(path)


def is_ignored(path):
    """By .dockerignore, where the last line that fits decides."""
    ignored = False
    for line in (REPO / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#") and fnmatch.fnmatch(path, line.removeprefix("!")):
            ignored = not line.startswith("!")
    return ignored


def test_every_package_is_installed_from_a_lock_with_its_hash():
    installs = [step for run in rest_of("RUN") for step in run.split("&&") if "pip install" in step]
    of_locks = [step for step in installs if "--require-hashes" in step]
    locks = [lock for step in of_locks for lock in re.findall(r"-r (\S+)", step)]
    (ours,) = [step for step in installs if step not in of_locks]

    assert "--no-deps --no-index dist/hofflight-" in ours
    assert [lock for lock in locks if "--hash=sha256:" not in (REPO / lock).read_text()] == []


@pytest.mark.parametrize("extra", ["kafka", "postgres", "redis", "pandas", "polars"])
def test_an_extra_that_servers_or_workers_need_is_in_the_image(extra):
    assert extra in PROJECT["optional-dependencies"]
    assert f"-r requirements/{extra}.lock" in TEXT


def test_the_entrypoint_is_hof_itself_so_that_signals_reach_it():
    (entrypoint,) = rest_of("ENTRYPOINT", LAST_STAGE)
    (command,) = rest_of("CMD", LAST_STAGE)

    assert json.loads(entrypoint) == ["hof"]
    assert json.loads(command) == ["--help"]
    assert "hof" in PROJECT["scripts"]
    assert rest_of("STOPSIGNAL", LAST_STAGE) == ["SIGTERM"]


@pytest.mark.parametrize("resource", RUNNING, ids=NAMES)
def test_the_user_is_a_number_that_is_not_root_and_the_one_of_the_pods(resource):
    (user,) = rest_of("USER", LAST_STAGE)
    context = pod_of(resource)["securityContext"]

    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert context["runAsUser"] >= 10_000


def test_nothing_secret_is_asked_for_or_kept():
    assert [rest for rest in rest_of("ENV") + rest_of("ARG") if SECRET.search(rest)] == []


def test_output_is_not_held_back_and_nothing_is_written_beside_the_code():
    environment = " ".join(rest_of("ENV", LAST_STAGE))

    assert "PYTHONUNBUFFERED=1" in environment
    assert "PYTHONDONTWRITEBYTECODE=1" in environment
    assert rest_of("VOLUME", LAST_STAGE) == ["/store"]


def test_the_servers_image_is_the_one_of_this_version():
    assert container_of(SERVE)["image"].endswith(f"/hofflight:{PROJECT['version']}")
