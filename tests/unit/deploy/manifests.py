"""The manifests in deploy/kubernetes, and what a pod of them sees."""

import re
from pathlib import Path

import yaml

REPO = Path(__file__).parents[3]
FILES = sorted((REPO / "deploy/kubernetes").glob("*.yaml"))
GUIDE = (REPO / "docs/guide/deploy.md").read_text(encoding="utf-8")
RESOURCES = [
    resource for file in FILES for resource in yaml.safe_load_all(file.read_text(encoding="utf-8"))
]
# What the guide puts into the Secret that the manifests name.
SECRETS = dict(re.findall(r"^(HOF_\w+)=(\S+)$", GUIDE, flags=re.MULTILINE))


def named(kind, name):
    """The one resource of that kind and name."""
    (found,) = [r for r in RESOURCES if r["kind"] == kind and r["metadata"]["name"] == name]
    return found


SERVE = named("Deployment", "hofflight-serve")
WORKER = named("StatefulSet", "hofflight-worker-card-tx")
SPARK = named("StatefulSet", "hofflight-spark-card-tx")
REGISTER = named("Job", "hofflight-register")
SETTINGS = named("ConfigMap", "hofflight-settings")["data"]
RUNNING = [SERVE, WORKER, SPARK, REGISTER]
NAMES = ["serve", "worker", "spark", "register"]


def pod_of(resource):
    """The pod that it makes."""
    return resource["spec"]["template"]["spec"]


def container_of(resource):
    """The one container of its pod."""
    (container,) = pod_of(resource)["containers"]
    return container


def environment_of(resource, index=0):
    """What the container of the pod with that index has in its environment, secrets included."""
    container = container_of(resource)
    own = {variable["name"]: variable for variable in container.get("env", [])}
    fields = {name: variable["valueFrom"]["fieldRef"] for name, variable in own.items()}
    known = {"metadata.labels['apps.kubernetes.io/pod-index']": str(index)}
    shared = {
        name: value
        for source in container["envFrom"]
        for name, value in sources()[next(iter(source.values()))["name"]].items()
    }
    return {**shared, **{name: known[field["fieldPath"]] for name, field in fields.items()}}


def sources():
    """What `envFrom` can name."""
    return {"hofflight-settings": SETTINGS, "hofflight-secrets": SECRETS}


def arguments_of(resource, index=0):
    """The container's arguments as Kubernetes hands them over: `$(NAME)` is the environment's."""
    environment = environment_of(resource, index)
    return [
        re.sub(r"\$\((\w+)\)", lambda name: environment[name[1]], argument)
        for argument in container_of(resource)["args"]
    ]
