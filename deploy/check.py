"""
Checks of the chart and of KubeRay's manifests against the schemas of Kubernetes and KubeRay: `make chart` runs it.

    each of helm/values     linted; rendered as in helm/rendered; strictly valid in each version of `KUBERNETES`
    each of helm/refused    refused by values.schema.json
    each of kuberay         strictly valid by the schemas of KubeRay's own resources
    Prometheus' resources   strictly valid by the schemas of its operator
    compose.yaml            valid by the schema of Compose

``--write`` makes helm/rendered anew. Tests read these files, as they have no helm.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from deploy.rendered import CHART, HERE, RENDERED, first_line
from jsonschema import Draft7Validator

KUBERNETES = ("1.35", "1.36", "1.37")
"""The newest versions that kubernetes-validate has the schemas of."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # (PyYAML is untyped)
    """Takes a lone ``=`` for text, as YAML 1.2 does."""


_Loader.add_constructor("tag:yaml.org,2002:value", yaml.SafeLoader.construct_scalar)


def main() -> int:
    """Print what is wrong. Return 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helm", required=True, help="the program")
    parser.add_argument("--kuberay", required=True, type=Path, help="directory of KubeRay's CustomResourceDefinitions")
    parser.add_argument("--prometheus", required=True, type=Path, help="directory of those of Prometheus' operator")
    parser.add_argument("--compose", required=True, type=Path, help="Compose's JSON Schema")
    parser.add_argument("--write", action="store_true", help="make helm/rendered anew")
    given = parser.parse_args()
    kuberay, prometheus = schemas(given.kuberay), schemas(given.prometheus)
    faults = [
        *(
            fault
            for values in files("helm/values")
            for fault in chart(given.helm, values, prometheus, write=given.write)
        ),
        *(fault for values in files("helm/refused") for fault in accepted(given.helm, values)),
        *(fault for manifest in files("kuberay") for fault in custom(manifest, kuberay)),
        *against(
            json.loads(given.compose.read_text(encoding="utf-8")),
            yaml.safe_load((HERE / "compose.yaml").read_text(encoding="utf-8")),
            "compose.yaml",
        ),
    ]
    print("\n".join(faults) or f"all is valid in Kubernetes {', '.join(KUBERNETES)}")
    return bool(faults)


def files(directory: str) -> list[Path]:
    """Return the YAML files of a directory here."""
    return sorted((HERE / directory).glob("*.yaml"))


def chart(helm: str, values: Path, others: dict[tuple[str, str], Any], *, write: bool) -> Iterator[str]:
    """Yield what is wrong with the chart with these values."""
    _, printed = run(helm, "lint", "--strict", "--values", str(values), str(CHART))
    if "0 chart(s) failed" not in printed:
        yield f"{values.name}: {printed}"
    for version in KUBERNETES:
        failed, text = template(helm, values, version)
        if failed:
            yield f"{values.name}: {text}"
            return
        yield from (f"{values.name}, {version}: {fault}" for fault in invalid(text, version, others))
    made = f"{first_line(values)}\n{text}"
    if write:
        (RENDERED / values.name).write_text(made, encoding="utf-8")
    elif (RENDERED / values.name).read_text(encoding="utf-8") != made:
        yield f"{RENDERED / values.name} is old; run `make chart-write`"


def template(helm: str, values: Path, version: str) -> tuple[int, str]:
    """Return helm's exit code, and the manifests or the error."""
    flags = ("--namespace", "ray", "--kube-version", version, "--values", str(values))
    return run(helm, "template", "history", str(CHART), *flags)


def accepted(helm: str, values: Path) -> Iterator[str]:
    """Yield that the chart takes values that it has to refuse."""
    failed, text = template(helm, values, KUBERNETES[-1])
    if not failed or "values don't meet the specifications of the schema" not in text:
        yield f"{values.name} is not refused by values.schema.json: {text[:500]}"


def invalid(manifests: str, version: str, others: dict[tuple[str, str], Any]) -> Iterator[str]:
    """Yield what a version of Kubernetes would not take, or what owns the other resources."""
    for manifest in filter(None, yaml.safe_load_all(manifests)):
        kind = manifest["apiVersion"], manifest["kind"]
        if kind in others:
            yield from against(others[kind], manifest, manifest["kind"])
            continue
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{manifest['kind']} {manifest['metadata']['name']}: {error.message} at {list(error.path)}"


def schemas(directory: Path) -> dict[tuple[str, str], Any]:
    """Return the schemas of KubeRay's resources by apiVersion and kind."""
    by_kind = {}
    for path in directory.glob("*.yaml"):
        spec = yaml.load(path.read_text(encoding="utf-8"), _Loader)["spec"]  # noqa: S506 (it is a safe one)
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            # a resource says little of its metadata
            schema["properties"]["metadata"] = {"type": "object"}
            by_kind[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = strict(schema)
    return by_kind


def strict(schema: Any) -> Any:
    """Return a schema in which objects have no other properties than those that are named."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {name: strict(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        closed["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return closed


def custom(path: Path, by_kind: dict[tuple[str, str], Any]) -> Iterator[str]:
    """Yield what KubeRay would not take."""
    manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    yield from against(by_kind[manifest["apiVersion"], manifest["kind"]], manifest, path.name)


def against(schema: Any, document: Any, name: str) -> Iterator[str]:
    """Yield what a schema does not allow in a document."""
    for error in Draft7Validator(schema).iter_errors(document):
        yield f"{name}: {error.message} at {error.json_path}"


def run(*command: str) -> tuple[int, str]:
    """Return a command's exit code and output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
