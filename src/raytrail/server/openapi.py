"""The description of our own HTTP API in OpenAPI, made of the declarations of pages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from raytrail.server.pages.page import Page
from raytrail.store import Cluster, LedgerRow

_NAME = re.compile(r"{(\w+)}")
_REFERENCE = "#/components/schemas/{name}"
_WORDS: Mapping[str, str] = {
    "id": "A session's name, a part of it that no other has, a cluster's name, or `latest`.",
    "job": "A job's id, or that of its submission.",
    "moment": "A time such as `2026-11-29T03:12:00Z`, or milliseconds since 1970.",
}


def describe(pages: Sequence[Page]) -> dict[str, Any]:
    """Return the OpenAPI description of the pages' JSON, and of the list of clusters."""
    kinds = [Cluster, LedgerRow, *(page.schema() for page in pages)]
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    paths: dict[str, Any] = {}
    for page in pages:
        answer = _answer(_reference(page.schema()))
        below = ("",) if page.over_store else ("/clusters/{id}", "/clusters/{id}/at/{moment}")
        for prefix in below:
            path = f"{prefix}{page.json_path}"
            paths[path] = {"get": _operation(path, page, answer)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Raytrail",
            "version": version("raytrail"),
            "description": "What people ask of a history of Ray clusters. Ray's own API is served below each cluster.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(path: str, page: Page, answer: Mapping[str, Any]) -> dict[str, Any]:
    doc = " ".join((page.answer.__doc__ or "").split())
    names = _NAME.findall(path)
    return {
        "summary": page.title,
        "description": doc,
        "operationId": re.sub(r"\W+", "_", path).strip("_"),
        "parameters": [
            *(
                {
                    "name": name,
                    "in": "path",
                    "required": True,
                    "description": _WORDS.get(name, f"The id of a {name}."),
                    "schema": {"type": "string"},
                }
                for name in names
            ),
            *(
                {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
                for name, text in page.parameters.items()
            ),
        ],
        "responses": {"200": answer},
    }


def _reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}


def _answer(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": "The answer.", "content": {"application/json": {"schema": schema}}}
