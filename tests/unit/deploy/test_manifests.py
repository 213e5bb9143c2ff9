"""What the manifests ask of hofflight is there, and what they say of pods fits together."""

import ipaddress
import re

import pytest
import typer
from psycopg import pq
from typer.exceptions import TyperException

from hofflight.cli.main import app
from hofflight.cli.working import partition_numbers
from hofflight.settings import Settings, load_settings
from tests.unit.deploy.manifests import (
    GUIDE,
    NAMES,
    RESOURCES,
    RUNNING,
    SECRETS,
    SERVE,
    SETTINGS,
    SPARK,
    WORKER,
    arguments_of,
    container_of,
    environment_of,
    named,
    pod_of,
)

of_each = pytest.mark.parametrize("resource", RUNNING, ids=NAMES)


# --- the command line and the settings ------------------------------------------------------------


def parsed(arguments):
    """The options of a command line, as `hof` itself understands it."""
    command = typer.main.get_command(app).commands[arguments[0]]
    return command.make_context(arguments[0], arguments[1:]).params


@of_each
def test_the_command_line_is_one_that_hof_understands(resource):
    assert parsed(arguments_of(resource))["kafka"] == SETTINGS["HOF_KAFKA__BOOTSTRAP"]


@of_each
def test_an_option_that_hof_does_not_have_is_seen(resource):
    with pytest.raises(TyperException, match="--replicas"):
        parsed([*arguments_of(resource), "--replicas=3"])


def test_so_is_the_one_that_the_guide_runs_in_docker():
    (line,) = re.findall(r"registry.example.org/hofflight:\S+ (serve .*)$", GUIDE, re.MULTILINE)

    assert str(parsed(line.split())["store"]) == "/store"


@of_each
def test_every_variable_is_a_setting_or_one_of_libpq(resource):
    assert unknown(environment_of(resource)) == set()


def test_a_variable_that_nobody_reads_is_seen():
    strangers = {"HOF_KAFKA__BOOTSTRAPS", "HOF_BROKERS__URL", "PGSSLROOT"}

    assert unknown([*SETTINGS, *strangers]) == strangers


def unknown(variables):
    """Those that neither hofflight nor libpq reads; POD_INDEX is for the command line."""
    known = {
        f"HOF_{section}__{name}".upper()
        for section, field in Settings.model_fields.items()
        for name in field.annotation.model_fields
    }
    libpq = {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar}
    return set(variables) - known - libpq - {"POD_INDEX"}


@of_each
def test_the_settings_of_a_container_are_valid(resource, monkeypatch):
    settings = settings_of(resource, monkeypatch)

    assert settings.kafka.security == "SASL_SSL"
    assert settings.registry.url.startswith("postgresql://")


def settings_of(resource, monkeypatch):
    for name, value in environment_of(resource).items():
        monkeypatch.setenv(name, value)
    return load_settings()


# --- servers --------------------------------------------------------------------------------------


def test_a_server_that_others_reach_has_tls_and_tokens():
    options = parsed(arguments_of(SERVE))
    host, port = options["grpc"].split(":")

    assert not ipaddress.ip_address(host).is_loopback
    assert int(port) == container_of(SERVE)["ports"][0]["containerPort"]
    assert all(options[name] for name in ("tls_cert", "tls_key", "token_file"))
    assert not options["insecure"]


def test_a_server_has_time_to_drain(monkeypatch):
    """Streams have this time, then what is in Kafka has it again."""
    drain_s = settings_of(SERVE, monkeypatch).server.drain_timeout_ms / 1_000
    pause_s = container_of(SERVE)["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert pod_of(SERVE)["terminationGracePeriodSeconds"] >= pause_s + 2 * drain_s + 10


def test_each_server_of_an_update_finds_a_reply_topic(monkeypatch):
    """Old ones that drain hold theirs still: in the worst case all of them."""
    at_once = 2 * SERVE["spec"]["replicas"]
    at_once += SERVE["spec"]["strategy"]["rollingUpdate"]["maxSurge"]

    assert settings_of(SERVE, monkeypatch).kafka.reply_topics >= at_once


# --- workers --------------------------------------------------------------------------------------


def test_each_partition_has_one_worker(monkeypatch):
    pods = range(WORKER["spec"]["replicas"])
    worked = [
        number
        for index in pods
        for number in partition_numbers(parsed(arguments_of(WORKER, index))["partitions"])
    ]

    assert worked == list(range(settings_of(WORKER, monkeypatch).kafka.partitions))


@pytest.mark.parametrize("resource", [WORKER, SPARK], ids=["worker", "spark"])
def test_a_worker_keeps_its_store_in_its_volume(resource):
    (claim,) = resource["spec"]["volumeClaimTemplates"]
    (mount,) = [
        m for m in container_of(resource)["volumeMounts"] if m["name"] == claim["metadata"]["name"]
    ]

    assert str(parsed(arguments_of(resource))["store"]) == mount["mountPath"]
    assert not mount.get("readOnly")


# --- pods -----------------------------------------------------------------------------------------


@of_each
def test_a_container_may_do_nothing_that_it_does_not_need(resource):
    pod, container = pod_of(resource), container_of(resource)

    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False


@of_each
def test_a_container_says_how_much_it_needs(resource):
    resources = container_of(resource)["resources"]

    assert set(resources["requests"]) == {"cpu", "memory"}
    assert set(resources["limits"]) == {"memory"}


@of_each
def test_every_file_that_is_named_is_in_a_volume(resource):
    mounted = {mount["mountPath"] for mount in container_of(resource)["volumeMounts"]}
    texts = [*arguments_of(resource), *environment_of(resource).values()]
    files = {file for text in texts for file in re.findall(r"(?:^|=)(/[^/].*)", text)}

    assert files
    assert [f for f in files if not any(f == m or f.startswith(f"{m}/") for m in mounted)] == []


@of_each
def test_every_mount_has_a_volume(resource):
    volumes = {volume["name"] for volume in pod_of(resource)["volumes"]}
    claims = resource["spec"].get("volumeClaimTemplates", [])
    mounts = {mount["name"] for mount in container_of(resource)["volumeMounts"]}

    assert mounts == volumes | {claim["metadata"]["name"] for claim in claims}


@of_each
def test_what_a_pod_needs_is_a_manifest_or_made_in_the_guide(resource):
    wanted = {
        each["name"] for source in container_of(resource)["envFrom"] for each in source.values()
    }
    for volume in pod_of(resource)["volumes"]:
        wanted |= {volume[kind][name] for kind, name in KINDS.items() if kind in volume}
    made = set(re.findall(r"^kubectl create (?:secret \w+|configmap) (\S+)", GUIDE, re.MULTILINE))

    assert wanted - {r["metadata"]["name"] for r in RESOURCES} <= made


KINDS = {"configMap": "name", "secret": "secretName"}


def test_no_secret_is_in_a_manifest():
    kinds = {resource["kind"] for resource in RESOURCES}

    assert "Secret" not in kinds
    assert not set(SECRETS) & set(SETTINGS)
    assert not [name for name in SETTINGS if re.search("PASSWORD|TOKEN|USER|URL", name)]


# --- selectors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selecting", "resource"),
    [
        (SERVE["spec"]["selector"]["matchLabels"], SERVE),
        (WORKER["spec"]["selector"]["matchLabels"], WORKER),
        (SPARK["spec"]["selector"]["matchLabels"], SPARK),
        (named("Service", "hofflight-serve")["spec"]["selector"], SERVE),
        (
            named("PodDisruptionBudget", "hofflight-serve")["spec"]["selector"]["matchLabels"],
            SERVE,
        ),
        (
            named("PodDisruptionBudget", "hofflight-worker-card-tx")["spec"]["selector"][
                "matchLabels"
            ],
            WORKER,
        ),
        (named("NetworkPolicy", "hofflight-serve")["spec"]["podSelector"]["matchLabels"], SERVE),
    ],
    ids=["servers", "workers", "spark", "service", "servers' budget", "workers' budget", "policy"],
)
def test_a_selector_means_its_pods_and_no_others(selecting, resource):
    meant = [
        each
        for each in RUNNING
        if selecting.items() <= each["spec"]["template"]["metadata"]["labels"].items()
    ]

    assert meant == [resource]


def test_nobody_reaches_what_no_policy_names():
    selected = named("NetworkPolicy", "hofflight")["spec"]["podSelector"]["matchLabels"]

    assert "ingress" not in named("NetworkPolicy", "hofflight")["spec"]
    for resource in RUNNING:
        assert selected.items() <= resource["spec"]["template"]["metadata"]["labels"].items()
