"""Spark on Kubernetes: a pod of its own, or the driver of an operator's application."""

import copy

import jsonschema
import kubernetes_validate
import pytest
import typer

from hofflight.cli.main import app
from hofflight.cli.working import partition_numbers
from hofflight.spark_bridge.session import MAJOR
from tests.unit.deploy.manifests import (
    RESOURCES,
    RUNNING,
    SETTINGS,
    SPARK,
    arguments_of,
    container_of,
    named,
    pod_of,
)

APPLICATION = named("SparkApplication", "hofflight-card-tx")
CLAIM = named("PersistentVolumeClaim", "hofflight-spark-application")
DRIVER = APPLICATION["spec"]["driver"]

# The part of `sparkoperator.k8s.io/v1beta2` that is used, in our words: its own schema has 800 kB.
# What is a pod's in it is held against Kubernetes' schema.
TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 1}
POD_PARTS = {
    "env": {}, "envFrom": {}, "labels": {}, "podSecurityContext": {}, "securityContext": {},
    "volumeMounts": {},
}  # fmt: skip


def strict(required, **properties):
    return {
        "type": "object", "additionalProperties": False, "required": required,
        "properties": properties,
    }  # fmt: skip


SCHEMA = strict(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "sparkoperator.k8s.io/v1beta2"},
    kind={"const": "SparkApplication"},
    metadata={"type": "object"},
    spec=strict(
        ["driver", "executor", "mainApplicationFile", "sparkVersion", "type"],
        type={"enum": ["Java", "Python", "Scala", "R"]},
        mode={"enum": ["cluster", "client"]},
        sparkVersion=TEXT,
        image=TEXT,
        mainApplicationFile=TEXT,
        arguments={"type": "array", "items": TEXT},
        restartPolicy=strict(
            [],
            type={"enum": ["Never", "Always", "OnFailure"]},
            onFailureRetryInterval=NUMBER,
            onSubmissionFailureRetries=NUMBER,
            onSubmissionFailureRetryInterval=NUMBER,
        ),
        volumes={"type": "array"},
        driver=strict([], cores=NUMBER, memory=TEXT, memoryOverhead=TEXT, **POD_PARTS),
        executor=strict([], cores=NUMBER, memory=TEXT, instances=NUMBER, **POD_PARTS),
    ),
)


def refusals(resource):
    return [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(resource)]


def parsed(arguments):
    """The options of a command line, as `hof` itself understands it."""
    command = typer.main.get_command(app).commands[arguments[0]]
    return command.make_context(arguments[0], arguments[1:]).params


# --- the application ------------------------------------------------------------------------------


def test_the_application_fits_the_schema():
    assert refusals(APPLICATION) == []


def test_an_unknown_field_and_a_wrong_type_do_not():
    changed = copy.deepcopy(APPLICATION)
    changed["spec"]["driver"]["instance"] = 1
    changed["spec"]["executor"]["cores"] = "1"

    assert len(refusals(changed)) == 2


def test_what_is_a_pods_in_it_fits_the_schema_of_kubernetes():
    spec = APPLICATION["spec"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "driver", "labels": DRIVER["labels"]},
        "spec": {
            "securityContext": DRIVER["podSecurityContext"],
            "volumes": spec["volumes"],
            "containers": [
                {
                    "name": "driver",
                    "image": spec["image"],
                    "args": spec["arguments"],
                    **{n: DRIVER[n] for n in ("env", "envFrom", "securityContext", "volumeMounts")},
                }
            ],
        },
    }

    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_its_driver_is_the_pod_of_the_stateful_set():
    """But for who makes it: same image, user, rights, settings, folders."""
    container = container_of(SPARK)

    assert APPLICATION["spec"]["image"] == container["image"]
    assert DRIVER["securityContext"] == container["securityContext"]
    assert DRIVER["envFrom"] == container["envFrom"]
    assert DRIVER["volumeMounts"] == container["volumeMounts"]
    assert DRIVER["podSecurityContext"].items() <= pod_of(SPARK)["securityContext"].items()


def test_its_arguments_are_those_of_the_pod_but_for_the_supervisor():
    """The brokers come from the environment: an operator puts no variables into arguments."""
    ours, theirs = parsed(arguments_of(SPARK)), parsed(APPLICATION["spec"]["arguments"])

    assert (ours.pop("once"), theirs.pop("once")) == (False, True)
    assert (ours.pop("kafka"), theirs.pop("kafka")) == (SETTINGS["HOF_KAFKA__BOOTSTRAP"], None)
    assert ours == theirs


def test_nothing_asks_for_executors():
    """Without a master `hof spark` takes this machine; the schema wants the section."""
    assert parsed(APPLICATION["spec"]["arguments"])["master"] == ""
    assert APPLICATION["spec"]["executor"]["instances"] == 1


def test_its_file_and_release_are_there():
    spec = APPLICATION["spec"]

    assert spec["mainApplicationFile"].endswith("/site-packages/hofflight/cli/main.py")
    assert spec["mainApplicationFile"].startswith("local:///opt/hofflight/lib/python3.11/")
    assert spec["sparkVersion"].startswith(f"{MAJOR}.")


def test_its_store_is_a_claim_of_one_pod_at_a_time():
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in APPLICATION["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]

    assert claims == [CLAIM["metadata"]["name"]]
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteOncePod"]


def test_no_selector_takes_its_driver_for_another_pod():
    wanting = [
        each["spec"]["selector"]["matchLabels"] for each in RUNNING if "selector" in each["spec"]
    ]

    assert [each for each in wanting if each.items() <= DRIVER["labels"].items()] == []


# --- the pod --------------------------------------------------------------------------------------


def test_each_partition_has_one_application():
    sets = [r for r in RESOURCES if r["metadata"].get("labels", {}).get("hofflight/partitions")]
    worked = [
        number
        for each in sets
        for number in partition_numbers(parsed(arguments_of(each))["partitions"])
    ]

    assert sorted(worked) == list(range(int(SETTINGS["HOF_KAFKA__PARTITIONS"])))
    assert all(each["spec"]["replicas"] == 1 for each in sets)


def test_its_name_says_which_partitions():
    labels = SPARK["metadata"]["labels"]

    assert parsed(arguments_of(SPARK))["partitions"] == labels["hofflight/partitions"]
    assert parsed(arguments_of(SPARK))["group"] == [labels["hofflight/group"]]


@pytest.mark.parametrize("path", ["/store", "/tmp"])
def test_what_spark_writes_to_can_be_written(path):
    (mount,) = [m for m in container_of(SPARK)["volumeMounts"] if m["mountPath"] == path]

    assert not mount.get("readOnly")
