"""The manifests are what Kubernetes' own schema says."""

import copy

import kubernetes_validate
import pytest

from tests.unit.deploy.manifests import RESOURCES, SERVE, SPARK, WORKER, container_of

# The oldest release that the files ask for, and the newest whose schema is here.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
# What others add to Kubernetes is not in its schema: test_spark_manifests.py.
OWN = [resource for resource in RESOURCES if not resource["apiVersion"].startswith("sparkoperator")]


def refusal(resource, version=VERSIONS[-1]):
    """What the schema says against it; "" for nothing."""
    try:
        kubernetes_validate.validate(resource, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return error.message
    return ""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("resource", OWN, ids=lambda r: f"{r['kind']} {r['metadata']['name']}")
def test_a_manifest_fits_the_schema(resource, version):
    assert refusal(resource, version) == ""


@pytest.mark.parametrize("resource", [SERVE, WORKER, SPARK], ids=["serve", "worker", "spark"])
def test_an_unknown_field_does_not_fit(resource):
    changed = copy.deepcopy(resource)
    container_of(changed)["readynessProbe"] = {}

    assert "readynessProbe" in refusal(changed)


@pytest.mark.parametrize("resource", [SERVE, WORKER, SPARK], ids=["serve", "worker", "spark"])
def test_a_value_of_another_type_does_not_fit(resource):
    changed = copy.deepcopy(resource)
    changed["spec"]["replicas"] = "3"

    assert "'3' is not of type" in refusal(changed)


@pytest.mark.parametrize("resource", [SERVE, WORKER, SPARK], ids=["serve", "worker", "spark"])
def test_a_missing_selector_does_not_fit(resource):
    changed = copy.deepcopy(resource)
    del changed["spec"]["selector"]

    assert "'selector' is a required property" in refusal(changed)
