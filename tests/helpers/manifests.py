"""The Kubernetes manifests of deploy/k8s: their documents, and the containers in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tests.helpers.composes import DEPLOY

Document = dict[str, Any]

K8S = DEPLOY / "k8s"


def documents(*kinds: str) -> list[Document]:
    """The documents of some kinds, by default all; without kustomizations."""
    found = [
        document
        for file in sorted(K8S.rglob("*.yaml"))
        if file.name != "kustomization.yaml"
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    ]
    return [document for document in found if not kinds or document["kind"] in kinds]


def named(kind: str, name: str) -> Document:
    """The document of a kind and a name."""
    (found,) = [one for one in documents(kind) if one["metadata"]["name"] == name]
    return found


def workloads() -> list[Document]:
    """The documents that have pods."""
    return documents("Deployment", "StatefulSet", "Job")


def pod(workload: Document) -> Document:
    """The spec of a workload's pods."""
    spec: Document = workload["spec"]["template"]["spec"]
    return spec


def labels(workload: Document) -> dict[str, str]:
    """The labels of a workload's pods."""
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def containers() -> Iterator[tuple[Document, Document]]:
    """Each container of Modelyard's, behind its workload."""
    for workload in workloads():
        for container in pod(workload)["containers"]:
            if container["image"].startswith("modelyard"):
                yield workload, container


def probes(container: Document) -> list[Document]:
    """A container's probes."""
    return [container[name] for name in container if name.endswith("Probe")]


def selects(selector: Document, found: dict[str, str]) -> bool:
    """True if a label selector picks a pod with these labels."""
    wanted = selector.get("matchLabels", {}).items()
    rules = selector.get("matchExpressions", [])
    assert all(rule["operator"] == "In" for rule in rules)
    return wanted <= found.items() and all(
        found.get(rule["key"]) in rule["values"] for rule in rules
    )
