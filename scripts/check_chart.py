#!/usr/bin/env python3
"""Check the chart without a cluster: lint, render in several shapes, validate what comes out.

Also that its resource definitions are those of the locked operator, that values bring what they are
for, and that those which cannot be right are refused by name. Needs helm; says
so and checks nothing where there is none.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask_kubernetes
import kubernetes_validate
import yaml

from alpage.study import BUILT_IN

CHART = Path(__file__).resolve().parents[1] / "helm" / "alpage"
KUBERNETES = ("1.28", "1.34")
ELSEWHERE = {
    "prefect.server.enabled": "false",
    "prefect.apiUrl": "http://prefect.example.org:8443/api",
}
# Each is rendered and validated.
SHAPES: dict[str, dict[str, str]] = {
    "as it comes": {},
    "all of it": {
        "trialStorage.enabled": "true",
        "trialStorage.image": "versitygw:1",
        "service.enabled": "true",
        "service.releases": "s3://lakes/releases",
        "service.replicas": "2",
        "limits.quota.enabled": "true",
        "limits.range.enabled": "true",
        "prefect.authSecret": "prefect-password",
        "prefect.server.uiApiUrl": "https://prefect.example.org/api",
        "prefect.deploymentName": "snow",
        "networkPolicy.prefectClients[0].podSelector.matchLabels.app": "notebook",
        "networkPolicy.flowEgress[0].to[0].ipBlock.cidr": "10.7.0.0/16",
        "networkPolicy.flowEgress[0].ports[0].port": "8786",
        "storage.accountAnnotations.flow.role": "writer",
        "storage.requesterPays": "true",
        "settings.cpu_hour_eur": "0.03",
        "flows.update.schedule": "0 3 * * *",
        "flows.update.study.product": "snow",
        "flows.deadlineSeconds": "86400",
        "image.pullSecrets[0]": "registry",
        "cluster.worker.tolerations[0].key": "spot",
        "cluster.scheduler.nodeSelector.pool": "stable",
        "monitoring.enabled": "true",
        "monitoring.podMonitor.enabled": "true",
        "monitoring.podMonitor.labels.release": "prometheus",
        "monitoring.alerts.enabled": "true",
        "monitoring.dashboard.enabled": "true",
        "cluster.spot.labels.lifecycle": "spot",
        "cluster.spot.tolerations[0].key": "spot",
    },
    "beside what is there": {
        "prefect.server.enabled": "false",
        "prefect.apiUrl": "https://prefect.example.org/api",
        "operator.enabled": "false",
        "storage.secret": "keys",
        "storage.endpoint": "https://s3.example.org",
        "networkPolicy.enabled": "false",
        "monitoring.enabled": "true",
        "settings.log_format": "plain",
        "podDisruptionBudget.enabled": "false",
    },
    "behind others' walls": {
        **ELSEWHERE,
        "operator.enabled": "false",
        "operator.namespace": "dask",
        "storage.endpoint": "http://minio.s3.svc:9000",
        "prefect.server.persistence.fsGroup": "0",
    },
    "without keys": {
        "storage.anonymous": "true",
        "prefect.server.persistence.enabled": "false",
    },
}
# Each is refused, with these words.
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "an unknown key": ({"image.tga": "1"}, "additional properties 'tga' not allowed"),
    "an unknown setting": ({"settings.cpu_hour": "1"}, "cpu_hour"),
    "alerts about nothing": ({"monitoring.alerts.enabled": "true"}, "set monitoring.enabled"),
    "scrapers that would be everybody": ({"monitoring.scrapers": "null"}, "'scrapers'"),
    "an unknown threshold": ({"monitoring.alerts.stuckHours": "1"}, "stuckHours"),
    "two servers": ({"prefect.apiUrl": "http://a/api"}, "prefect.server.enabled to false"),
    "no server": ({"prefect.server.enabled": "false"}, "set prefect.apiUrl"),
    "two stores": (
        {"trialStorage.enabled": "true", "trialStorage.image": "a", "storage.secret": "b"},
        "leave storage.endpoint and storage.secret empty",
    ),
    "a store without image": ({"trialStorage.enabled": "true"}, "trialStorage.image"),
    "a service of nothing": ({"service.enabled": "true"}, "service.releases"),
    "a service of a folder": (
        {"service.enabled": "true", "service.releases": "/data"},
        "does not match pattern",
    ),
    "keys in an address": (
        {"storage.endpoint": "https://user:pw@s3.example.org"},
        "storage.endpoint holds a user or a password before its @",
    ),
    "a password in the server's address": (
        {**ELSEWHERE, "prefect.apiUrl": "https://me:pw@prefect.example.org/api"},
        "in prefect.authSecret",
    ),
    "two servers at one port": (
        {
            "service.enabled": "true",
            "service.releases": "s3://lakes/releases",
            "monitoring.enabled": "true",
            "monitoring.port": "8000",
        },
        "monitoring.port is 8000",
    ),
    "a product that there is not": (
        {"flows.update.study.product": "snoww"},
        f"expected one of {', '.join(BUILT_IN)}, or my_module:product, got snoww",
    ),
    "a schedule of nothing": ({"flows.update.schedule": "0 3 * * *"}, "flows.update.study"),
    "a cluster that ends while it waits": ({"cluster.idleSeconds": "200"}, "cluster.startSeconds"),
    "a claim that is not used": (
        {
            "prefect.server.persistence.existingClaim": "a",
            "prefect.server.persistence.enabled": "false",
        },
        "prefect.server.persistence.enabled is false",
    ),
    "pages of no server": (
        {**ELSEWHERE, "prefect.server.uiApiUrl": "https://a/api"},
        "prefect.server.uiApiUrl",
    ),
    "clients of no server": (
        {**ELSEWHERE, "networkPolicy.prefectClients[0].podSelector.matchLabels.a": "b"},
        "networkPolicy.prefectClients",
    ),
    "an operator from nowhere": ({"operator.enabled": "false"}, "set operator.namespace"),
    "two operators": ({"operator.namespace": "dask"}, "set operator.enabled to false"),
    "keys that sign nothing": (
        {"storage.anonymous": "true", "storage.secret": "keys"},
        "leave storage.secret and service.secret empty",
    ),
    "keys of a service that sign nothing": (
        {"storage.anonymous": "true", "service.secret": "keys"},
        "leave storage.secret and service.secret empty",
    ),
    "nobody who pays": (
        {"storage.anonymous": "true", "storage.requesterPays": "true"},
        "storage.requesterPays",
    ),
    "all addresses taken out": (
        {
            "networkPolicy.storage.cidrs[0]": "10.3.0.0/16",
            "networkPolicy.exceptCidrs[0]": "10.0.0.0/8",
        },
        "10.0.0.0/8 takes out all of 10.3.0.0/16",
    ),
    "addresses that cannot be taken out": (
        {
            "networkPolicy.storage.cidrs[0]": "fd00::/8",
            "networkPolicy.exceptCidrs[0]": "fd00:ec2::254/128",
        },
        "out of ::/0 only",
    ),
    "rules that admit everything": (
        {"networkPolicy.flowEgress[0].ports[0].port": "8786"},
        "missing property 'to'",
    ),
    "a worker that asks too seldom": ({"worker.pollSeconds": "21"}, "maximum: got 21, want 20"),
    "an account that nobody has": (
        {"storage.accountAnnotations.worker.role": "a"},
        "additional properties 'worker' not allowed",
    ),
}
SPOT = {"cluster.spot.labels.lifecycle": "spot"}
OTHERS = {"operator.enabled": "false", "operator.namespace": "dask"}
TAKEN_OUT = {
    "networkPolicy.storage.cidrs": "{0.0.0.0/0,10.0.0.0/8,192.0.2.0/24,::/0}",
    "networkPolicy.exceptCidrs": "{169.254.169.254/32,10.3.0.0/16,fd00:ec2::254/128}",
}
# Each has an object in whose JSON these words are, or after NO are not.
NO = "no "
RENDERED: dict[str, tuple[dict[str, str], str, str]] = {
    "a volume for the server": ({}, "Deployment/team-server", '"claimName": "team-server"'),
    "a group for it": ({}, "Deployment/team-server", '"fsGroup": 10001'),
    "no group where the platform chooses": (
        {"prefect.server.persistence.fsGroup": "0"},
        "Deployment/team-server",
        NO + "fsGroup",
    ),
    "a server off spot nodes": (SPOT, "Deployment/team-server", '"key": "lifecycle"'),
    "a server whose pages find it": (
        {"prefect.server.uiApiUrl": "https://prefect.example.org/api"},
        "Deployment/team-server",
        '{"name": "PREFECT_UI_API_URL", "value": "https://prefect.example.org/api"}',
    ),
    "a server whose pages find a port-forward": (
        {},
        "Deployment/team-server",
        '{"name": "PREFECT_UI_API_URL", "value": "http://127.0.0.1:4200/api"}',
    ),
    "a hook after rollbacks": ({}, "Job/team-register", "post-install,post-upgrade,post-rollback"),
    "deployments as they were": ({}, "ConfigMap/team-register", 'name: \\"build\\"'),
    "a study of one's own product": (
        {"flows.update.study.product": "moss:product"},
        "ConfigMap/team-register",
        '{study: {\\"product\\":\\"moss:product\\"}}',
    ),
    "deployments of a team": (
        {"prefect.deploymentName": "snow"},
        "ConfigMap/team-register",
        'name: \\"snow\\"\\n    entrypoint: update.py:update',
    ),
    "a flow that knows its image": (
        {},
        "ConfigMap/team-register",
        '{\\"name\\":\\"ALPAGE_CLUSTER_IMAGE\\",\\"value\\":\\"{{ image }}\\"}',
    ),
    "an identity": (
        {"storage.accountAnnotations.dask.role": "writer"},
        "ServiceAccount/team-dask",
        '"annotations": {"role": "writer"}',
    ),
    "an identity of its own only": (
        {"storage.accountAnnotations.dask.role": "writer"},
        "ServiceAccount/team-flow",
        NO + "writer",
    ),
    "no keys": (
        {"storage.anonymous": "true"},
        "ConfigMap/team-cluster",
        '{name: AWS_SKIP_SIGNATURE, value: \\"true\\"}',
    ),
    "keys that pay": (
        {"storage.requesterPays": "true"},
        "ConfigMap/team-cluster",
        "{name: AWS_REQUEST_PAYER, value: requester}",
    ),
    "users of the server": (
        {"networkPolicy.prefectClients[0].podSelector.matchLabels.app": "notebook"},
        "NetworkPolicy/team-server",
        '{"podSelector": {"matchLabels": {"app": "notebook"}}}], "ports": [{"port": 4200',
    ),
    "Prefect's port": (ELSEWHERE, "NetworkPolicy/team-prefect-clients", '"port": 8443'),
    "the store's port": (
        {"storage.endpoint": "http://minio.s3.svc:9000"},
        "NetworkPolicy/team-storage-dask",
        '"port": 9000, "protocol": "TCP"}, {"port": 443,',
    ),
    "the store's port by its scheme": (
        {"storage.endpoint": "http://s3.example.org"},
        "NetworkPolicy/team-storage-dask",
        '"port": 80,',
    ),
    "names as OpenShift serves them": ({}, "NetworkPolicy/team-default", '"port": 5353'),
    "a way to other clusters": (
        {"networkPolicy.flowEgress[0].to[0].ipBlock.cidr": "10.7.0.0/16"},
        "NetworkPolicy/team-flow-egress",
        '"egress": [{"to": [{"ipBlock": {"cidr": "10.7.0.0/16"}}]}]',
    ),
    "addresses taken out of all": (
        TAKEN_OUT,
        "NetworkPolicy/team-storage-dask",
        '"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32", "10.3.0.0/16"]}',
    ),
    "addresses taken out of some": (
        TAKEN_OUT,
        "NetworkPolicy/team-storage-dask",
        '"cidr": "10.0.0.0/8", "except": ["10.3.0.0/16"]}}, {"ipBlock": {"cidr": "192.0.2.0/24"}}',
    ),
    "addresses of IPv6 taken out": (
        TAKEN_OUT,
        "NetworkPolicy/team-storage-dask",
        '"cidr": "::/0", "except": ["fd00:ec2::254/128"]}',
    ),
    "an operator elsewhere": (
        OTHERS,
        "NetworkPolicy/team-dask",
        '"matchLabels": {"kubernetes.io/metadata.name": "dask"}}}], "ports": [{"port": 8787',
    ),
    "no operator elsewhere": ({}, "NetworkPolicy/team-dask", NO + "namespaceSelector"),
    "an operator that owns": ({}, "Role/team-operator", "daskworkergroups/finalizers"),
    "a limit that is near": (
        {"monitoring.enabled": "true", "monitoring.alerts.enabled": "true"},
        "PrometheusRule/team-alerts",
        "planned just below it ends before",
    ),
}
# What the notes say, or after NO do not.
NOTES: dict[str, tuple[dict[str, str], str]] = {
    "the server's way": ({}, "export PREFECT_API_URL=http://127.0.0.1:4200/api"),
    "the way to another server": (ELSEWHERE, "PREFECT_API_URL=http://prefect.example.org:8443/api"),
    "its password": ({"prefect.authSecret": "door"}, 'PREFECT_API_AUTH_STRING="$(kubectl'),
    "a team's deployment": ({"prefect.deploymentName": "snow"}, "deployment run build/snow"),
    "no loss where there is a volume": ({}, NO + "persistence is off"),
    "what is lost": (
        {"prefect.server.persistence.enabled": "false"},
        "schedules and the history of runs are gone",
    ),
    "no loss of another's server": (
        {**ELSEWHERE, "prefect.server.persistence.enabled": "false"},
        NO + "persistence is off",
    ),
}


def main() -> int:
    """Return 0 where all holds."""
    helm = shutil.which("helm")
    if helm is None:
        sys.stderr.write("chart: not checked, there is no helm on PATH (https://helm.sh)\n")
        return 0
    wrong = [*_definitions(), *_lint(helm)]
    for shape, values in SHAPES.items():
        done = _render(helm, values)
        if done.returncode:
            wrong.append(f"{shape}: {done.stderr.strip()}")
            continue
        wrong += [f"{shape}: {told}" for told in _validate(done.stdout)]
    for what, (values, words) in REFUSED.items():
        done = _render(helm, values)
        if not done.returncode or words not in done.stderr:
            wrong.append(f"{what}: expected a refusal with {words!r}, got {done.stderr.strip()!r}")
    for what, (values, name, words) in RENDERED.items():
        found = _objects(_render(helm, values).stdout).get(name)
        if found is None or (words.removeprefix(NO) in found) == words.startswith(NO):
            wrong.append(f"{what}: expected {words!r} in {name}, got {found}")
    for what, (values, words) in NOTES.items():
        told = _notes(helm, values)
        if (words.removeprefix(NO) in told) == words.startswith(NO):
            wrong.append(f"notes, {what}: expected {words!r}, got {told!r}")
    for told in wrong:
        sys.stderr.write(f"chart: {told}\n")
    return 1 if wrong else 0


def _definitions() -> list[str]:
    """The chart's resource definitions that are not those of the locked operator."""
    operator = Path(dask_kubernetes.__path__[0]) / "operator" / "deployment" / "helm"
    theirs = {path.name: path.read_text() for path in operator.glob("*/crds/*.yaml")}
    ours = {path.name: path.read_text() for path in (CHART / "crds").glob("*.yaml")}
    names = sorted(name for name in theirs | ours if theirs.get(name) != ours.get(name))
    return [f"crds/{name} is not the locked operator's: `make lock` copies it" for name in names]


def _lint(helm: str) -> list[str]:
    done = subprocess.run(
        [helm, "lint", "--strict", "--quiet", CHART], capture_output=True, text=True, check=False
    )
    return [done.stdout.strip() + done.stderr.strip()] if done.returncode else []


def _render(helm: str, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
    chosen = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    return subprocess.run(
        [helm, "template", "team", CHART, "--namespace", "team", *chosen],
        capture_output=True,
        text=True,
        check=False,
    )


def _objects(rendered: str) -> dict[str, str]:
    """The JSON of each object, by kind and name."""
    made = filter(None, yaml.safe_load_all(rendered))
    return {
        f"{one['kind']}/{one['metadata']['name']}": json.dumps(one, sort_keys=True) for one in made
    }


def _notes(helm: str, values: dict[str, str]) -> str:
    """What an installation would say, the objects left out."""
    chosen = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [helm, "install", "team", CHART, "--namespace", "team", "--dry-run=client", *chosen],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.rpartition("\nNOTES:\n")[2] + done.stderr


def _validate(rendered: str) -> list[str]:
    wrong = []
    for resource in filter(None, yaml.safe_load_all(rendered)):
        name = f"{resource['kind']}/{resource['metadata']['name']}"
        # Resources of others' definitions are no business of Kubernetes' own schemas.
        is_own = resource["apiVersion"].split("/")[0] != "monitoring.coreos.com"
        for version in KUBERNETES if is_own else ():
            try:
                kubernetes_validate.validate(resource, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                wrong.append(f"{name}: {error.message}")
        wrong += [f"{name}: {told}" for told in _insecure(resource)]
        wrong += [f"{name}: {told}" for told in _unfilled(resource)]
    return wrong


def _unfilled(resource: dict[str, Any]) -> list[str]:
    """Alerts whose expression still has the name of a threshold instead of its number."""
    if resource["kind"] != "PrometheusRule":
        return []
    rules = [rule for group in resource["spec"]["groups"] for rule in group["rules"]]
    return [f"{rule['alert']} lacks a number" for rule in rules if "$" in rule["expr"]]


def _insecure(resource: dict[str, Any]) -> list[str]:
    """What the restricted Pod Security Standard, or our own rules, do not allow of a workload."""
    template = resource.get("spec", {}).get("template")
    if resource["kind"] not in ("Deployment", "Job") or template is None:
        return []
    pod, wrong = template["spec"], []
    if not pod["securityContext"].get("runAsNonRoot"):
        wrong.append("runs as root")
    if "automountServiceAccountToken" not in pod:
        wrong.append("says nothing of its token")
    for container in pod["containers"]:
        security = container["securityContext"]
        if (
            security.get("allowPrivilegeEscalation")
            or "ALL" not in security["capabilities"]["drop"]
        ):
            wrong.append(f"{container['name']} is not restricted")
        if not security.get("readOnlyRootFilesystem"):
            wrong.append(f"{container['name']} may write to its image")
        if {"requests", "limits"} - container["resources"].keys():
            wrong.append(f"{container['name']} lacks requests or limits")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
