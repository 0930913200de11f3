"""
Apply the chart and KubeRay's manifests to a real API server with its controllers: `make apiserver` runs it.

The cluster has no nodes. Its controllers make the pods, as of a StatefulSet, and nobody runs them. What a pod may do is
judged where it is made: by Pod Security, in a namespace that enforces `restricted`.

    page        the commands that make namespace and secrets in docs/how-to/kubernetes.md
    charts      each of helm/values: strictly applied on trial; installed; its pod made; deleted, and its claim stays
    upgrades    from each of helm/values to the next; a claim that grows, and one that cannot
    manifests   each of kuberay, strictly; each of their pods
    refused     what is wrong with a manifest is refused: otherwise all of this says nothing
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from deploy.apiserver.cluster import Cluster, started
from deploy.rendered import CHART, HERE
from deploy.waiting import waited

PAGE = HERE.parent / "docs" / "how-to" / "kubernetes.md"
POD, CLAIM = "history-raytrail-0", "history-raytrail-store"
_COMMANDS = re.compile(r"^<!-- not run: needs a cluster -->\n```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SAME = (
    "--set=store.existingClaim=",
    "--set=store.storageClassName=",
    "--set=store.accessMode=ReadWriteOnce",
    "--set=store.whenDeleted=Retain",
    "--set=store.size=50Gi",
)
_PLATFORM = """
apiVersion: v1
kind: Namespace
metadata: {name: ray-baseline, labels: {pod-security.kubernetes.io/enforce: baseline}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: ray-collector, namespace: ray-baseline}}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: platform}, value: 1000}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: disk, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: disk.example.com
allowVolumeExpansion: true
"""
"""What is the platform's: `large.yaml` names a PriorityClass, and a class of disks that can grow."""
_DISK = """
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  storageClassName: disk
  capacity: {storage: 50Gi}
  accessModes: [ReadWriteOnce]
  csi: {driver: disk.example.com, volumeHandle: disk}
"""
"""Only a claim that has a disk can grow."""


def main() -> int:
    """Print what is wrong. Return 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", required=True, type=Path, help="directory of Kubernetes' programs, and of helm")
    parser.add_argument("--crds", required=True, action="append", type=Path, help="definitions of resources")
    given = parser.parse_args()
    with started(given.programs.absolute()) as cluster:
        version = json.loads(cluster.must("kubectl", "version", "--output=json"))["serverVersion"]["gitVersion"]
        for crds in given.crds:
            cluster.must("kubectl", "apply", "--server-side", f"--filename={crds}")
        cluster.must("kubectl", "apply", "--filename=-", typed=_PLATFORM)
        faults = []
        for step in (page, charts, upgrades, manifests, refused):
            began = time.monotonic()
            faults += [f"{step.__name__}: {fault}" for fault in step(cluster)]
            print(f"{step.__name__}: {time.monotonic() - began:.0f} s", flush=True)
    print("\n".join(faults) or f"Kubernetes {version} takes all")
    return bool(faults)


def page(cluster: Cluster) -> Iterator[str]:
    """Yield the commands of the page that fail. Make the namespace that all else is in."""
    commands = [line for block in _COMMANDS.findall(PAGE.read_text(encoding="utf-8")) for line in typed(block)]
    kubectl = [shlex.split(line)[1:] for line in commands if line.startswith("kubectl ") and " create " in line]
    if len(kubectl) < 3:
        yield f"it has only {kubectl}"
    for words in kubectl:
        code, printed = cluster.run("kubectl", *words)
        if code:
            yield f"kubectl {' '.join(words)}: {printed}"
    cluster.must("kubectl", "label", "namespace", "ray", "pod-security.kubernetes.io/enforce=restricted")
    cluster.must("kubectl", "config", "set-context", "--current", "--namespace=ray")
    # its controller makes it
    if not waited(lambda: "default" in cluster.named("serviceaccounts")):
        yield "no ServiceAccount is made: the controllers do not run"


def typed(block: str) -> list[str]:
    """Return the commands of a block."""
    return [line[2:] for line in block.replace("\\\n", " ").splitlines() if line.startswith("$ ")]


def charts(cluster: Cluster) -> Iterator[str]:
    """Yield what is wrong with each file of values, from its installation to its end."""
    for values in files("helm/values"):
        manifests = cluster.must("helm", "template", "history", str(CHART), "--validate", f"--values={values}")
        code, printed = applied(cluster, manifests, "--dry-run=server")
        if code:
            yield f"{values.name}: {printed}"
        code, printed = cluster.run("helm", "install", "history", str(CHART), f"--values={values}")
        if code:
            yield f"{values.name}: {printed}"
            continue
        yield from (f"{values.name}: {fault}" for fault in pod(cluster))
        yield from (f"{values.name}: {fault}" for fault in deleted(cluster, values))


def pod(cluster: Cluster) -> Iterator[str]:
    """Yield what is wrong with the pod that a controller has made of the chart."""
    if not waited(lambda: POD in cluster.named("pods")):
        events = cluster.named("events").values()
        yield f"no pod is made: {[event['message'] for event in events if event['type'] == 'Warning']}"
        return
    spec = cluster.named("pods")[POD]["spec"]
    tokens = [volume for volume in spec["volumes"] if "projected" in volume]
    if tokens:
        yield f"the pod is given {tokens}"


def deleted(cluster: Cluster, values: Path) -> Iterator[str]:
    """Delete the release. Yield what is wrong with what stays."""
    store = yaml.safe_load(values.read_text(encoding="utf-8")).get("store", {})
    cluster.must("helm", "uninstall", "history", "--wait")
    if not waited(lambda: not cluster.named("pods")):
        yield "its pod stays"
    kept = not store.get("existingClaim") and store.get("whenDeleted") != "Delete"
    # what is not to stay may go a moment later
    if not waited(lambda: bool(cluster.named("persistentvolumeclaims")) == kept):
        yield f"the claim {'goes' if kept else 'stays'} with the release"
    for kind in ("services", "statefulsets", "networkpolicies", "ingresses", "poddisruptionbudgets", "podmonitors"):
        if cluster.named(kind):
            yield f"{kind} stay: {[*cluster.named(kind)]}"
    cluster.must("kubectl", "delete", "persistentvolumeclaims", "--all")


def upgrades(cluster: Cluster) -> Iterator[str]:
    """Yield the upgrades that fail, from each file of values to the next, and what becomes of the claim."""
    install = ("upgrade", "--install", "history", str(CHART))
    for values in files("helm/values"):
        # a claim keeps its class for good, and its size does not shrink: those of the first are kept
        code, printed = cluster.run("helm", *install, f"--values={values}", *_SAME)
        if code:
            yield f"to {values.name}: {printed}"
    cluster.must("kubectl", "apply", "--filename=-", typed=_DISK)
    bound = waited(lambda: cluster.named("persistentvolumeclaims")[CLAIM]["status"]["phase"] == "Bound")
    if not bound:
        yield "the claim gets no disk"
    grown = [*_SAME[:-1], "--set=store.size=100Gi"]
    code, printed = cluster.run("helm", *install, f"--values={files('helm/values')[-1]}", *grown)
    size = cluster.named("persistentvolumeclaims")[CLAIM]["spec"]["resources"]["requests"]["storage"]
    if code or size != "100Gi":
        yield f"the claim does not grow: {size} {printed}"
    other = [*grown, "--set=store.storageClassName=other"]
    code, printed = cluster.run("helm", *install, f"--values={files('helm/values')[-1]}", *other)
    if not code or "spec is immutable" not in printed:
        yield f"the claim's class may change: {printed}"
    cluster.must("helm", "uninstall", "history", "--wait")
    # what is kept belongs to the next release of that name
    cluster.must("helm", "install", "history", str(CHART), f"--values={files('helm/values')[-1]}", *grown)
    cluster.must("helm", "uninstall", "history", "--wait")
    cluster.must("kubectl", "delete", "persistentvolumeclaims", "--all")


def manifests(cluster: Cluster) -> Iterator[str]:
    """Yield what is wrong with KubeRay's manifests and their pods."""
    for path in files("kuberay"):
        manifest = path.read_text(encoding="utf-8")
        pods = [
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": template["spec"]}
            for template in templates(yaml.safe_load(manifest))
        ]
        tried = [(manifest, "ray"), *((yaml.safe_dump(pod), "ray-baseline") for pod in pods)]
        if "collector" not in path.name:
            tried += [(yaml.safe_dump(hardened(pod)), "ray") for pod in pods]
        for document, namespace in tried:
            code, printed = applied(cluster, document, "--dry-run=server", f"--namespace={namespace}")
            if code:
                yield f"{path.name}: {printed}"
        print(f"{path.name}: {len(pods)} pods", flush=True)


def hardened(pod: Any) -> Any:
    """Return a pod whose Ray has no more rights than the agent, so that Pod Security speaks of the agent."""
    copied = copy.deepcopy(pod)
    [agent] = [container for container in copied["spec"]["containers"] if container["name"] == "raytrail"]
    for container in copied["spec"]["containers"]:
        container["securityContext"] = agent["securityContext"]
    return copied


def templates(value: Any) -> Iterator[Any]:
    """Yield each template of a pod in a manifest."""
    if isinstance(value, dict):
        if "containers" in value.get("spec", {}):
            yield value
        for part in value.values():
            yield from templates(part)
    elif isinstance(value, list):
        for part in value:
            yield from templates(part)


def refused(cluster: Cluster) -> Iterator[str]:
    """Yield what is wrong and yet taken."""
    rendered = cluster.must(
        "helm", "template", "history", str(CHART), "--validate", f"--values={files('helm/values')[0]}"
    )
    [stateful] = [item for item in yaml.safe_load_all(rendered) if item and item["kind"] == "StatefulSet"]
    cluster.must("kubectl", "apply", "--server-side", "--filename=-", typed=rendered)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": stateful["spec"]["template"]["spec"]}
    ray = yaml.safe_load((HERE / "kuberay" / "raycluster.yaml").read_text(encoding="utf-8"))
    for manifest, path, value, why in (
        (stateful, "spec.serviceName", "other", "field is immutable"),
        (stateful, "spec.template.spec.containers.0.args", 1, "args: expected list"),
        (stateful, "spec.template.spec.fsgroup", 1, "field not declared in schema"),
        (pod, "spec.securityContext.runAsNonRoot", False, "violates PodSecurity"),
        (pod, "spec.hostNetwork", True, "violates PodSecurity"),
        (pod, "spec.priorityClassName", "absent", "no PriorityClass"),
        (ray, "spec.headGroupSpecs", {}, "field not declared in schema"),
        (ray, "spec.headGroupSpec.rayStartParams", 1, "rayStartParams: expected map"),
    ):
        code, printed = applied(cluster, yaml.safe_dump(changed(manifest, path, value)), "--dry-run=server")
        if not code or why not in printed:
            yield f"{manifest['kind']} with {path}={value!r} is not refused by {why!r}: {printed}"
    cluster.must("kubectl", "delete", "--filename=-", typed=rendered)


def changed(manifest: Any, path: str, value: Any) -> Any:
    """Return a manifest with another value somewhere."""
    copied = copy.deepcopy(manifest)
    *parents, last = path.split(".")
    at = copied
    for name in parents:
        at = at[int(name) if name.isdigit() else name]
    at[last] = value
    return copied


def applied(cluster: Cluster, manifests: str, *flags: str) -> tuple[int, str]:
    """Apply manifests, strictly. Return kubectl's exit code, and what it says."""
    return cluster.run(
        "kubectl", "apply", "--server-side", "--validate=strict", "--filename=-", *flags, typed=manifests
    )


def files(directory: str) -> list[Path]:
    """Return the YAML files of a directory here."""
    return sorted((HERE / directory).glob("*.yaml"))


if __name__ == "__main__":
    sys.exit(main())
