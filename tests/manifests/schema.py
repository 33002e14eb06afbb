"""Strict validation: Kubernetes' own schemas, and for others' resources the part that we use."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from tests.manifests.kustomize import Object
from tests.manifests.objects import name

VERSIONS = ("1.30", "1.37")
"""The oldest that the manifests promise to run on (preStop sleep), and the newest known here."""

FOREIGN = Path(__file__).with_name("crds")


def problems(found: Object) -> list[str]:
    """Return what is wrong with one object by its schema."""
    group = str(found["apiVersion"])
    if "." in group.partition("/")[0] and not group.partition("/")[0].endswith(".k8s.io"):
        return _foreign_problems(found)
    return [p for version in VERSIONS for p in _kubernetes_problems(found, version)]


def _kubernetes_problems(found: Object, version: str) -> list[str]:
    try:
        kubernetes_validate.validate(found, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{name(found)} by {version}: {error.message}"]
    return []


def _foreign_problems(found: Object) -> list[str]:
    try:
        schema = _foreign_schema(f"{found['apiVersion']}/{found['kind']}".replace("/", "_"))
    except FileNotFoundError as error:
        return [f"{name(found)}: no schema {error.filename}"]
    validator: Any = jsonschema.Draft202012Validator(schema)
    return [f"{name(found)}: {e.json_path}: {e.message}" for e in validator.iter_errors(found)]


@cache
def _foreign_schema(stem: str) -> Any:
    return json.loads((FOREIGN / f"{stem}.json").read_text())
