#!/usr/bin/env python3
"""Check the chart without a cluster: lint, render in several shapes, validate what comes out.

Also that its resource definitions are those of the locked operator, and that values which cannot
be right are refused by name. Needs helm; says so and checks nothing where there is none.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask_kubernetes
import kubernetes_validate
import yaml

CHART = Path(__file__).resolve().parents[1] / "helm" / "alpage"
KUBERNETES = ("1.28", "1.34")
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
        "prefect.server.persistence.enabled": "true",
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
    "a schedule of nothing": ({"flows.update.schedule": "0 3 * * *"}, "flows.update.study"),
    "a cluster that ends while it waits": ({"cluster.idleSeconds": "200"}, "cluster.startSeconds"),
    "a claim that is not used": (
        {"prefect.server.persistence.existingClaim": "a"},
        "prefect.server.persistence.enabled is false",
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
