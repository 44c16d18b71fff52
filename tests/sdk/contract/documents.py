"""The contract as documents that Schemathesis plays: closed as the other tests close it, with what the hosted service was recorded to
send, the error envelope for every refusal, and ids of resources that are there in the place of most random ones."""

import copy
import json
import re
from pathlib import Path
from typing import Any, Iterator

CONTRACT = Path(__file__).resolve().parent.parent.parent.parent / "contract"

ERROR = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "error"},
        "request_id": {"type": ["string", "null"]},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "additionalProperties": False,
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string", "minLength": 1},
                "details": {"type": "object"},
                "conflicting_memory_id": {"type": "string"},
                "conflicting_path": {"type": "string"},
            },
        },
    },
}
"""How every refusal looks."""

NOWHERE = ["https://nowhere.invalid/hook", "https://nowhere.invalid", "nonsense"]
"""Addresses in the place of random ones: whatever the server sends there goes nowhere."""


Ids = dict[str, list[str]]
"""The values of each parameter or field of this name."""

ENDINGS = ("/archive", "/cancel", "/redact", "/revoke", "/stop")
"""What ends a resource, beside a DELETE."""


def load(name: str, kept: Ids, spare: Ids, *, tame: bool) -> dict[str, Any]:
    """A file of the contract on resources that are there: `spare` for what ends them, `kept` for everything else. When it is `tame`,
    texts and numbers are such as clients send; otherwise they are whatever the contract allows."""
    text = (CONTRACT / name).read_text()
    # rota.json names parts of openapi.json.
    document = inlined(json.loads(text), json.loads((CONTRACT / "openapi.json").read_text()))
    document.setdefault("info", {}).setdefault("title", name)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            ids = spare if method == "delete" or path.endswith(ENDINGS) else kept
            if "/work" in path or "/environments/{environment_id}/keys" in path:
                # The last of them is one of workers.
                ids = {**ids, "environment_id": ids["environment_id"][-1:]}
            parameters = operation.setdefault("parameters", [])
            declared = {parameter["name"] for parameter in parameters}
            for parameter in re.findall(r"{(\w+)}", path):
                if parameter not in declared:
                    string = {"type": "string"}
                    parameters.append({"in": "path", "name": parameter, "required": True, "schema": string})
            for parameter in parameters:
                if values := ids.get(parameter["name"]):
                    parameter["schema"] = {"enum": values}
                elif tame:
                    parameter["schema"] = tamed(parameter["name"], parameter["schema"])
            # A body names parts that answers have too: what is changed for requests is changed in a copy.
            body = operation.get("requestBody", {})
            for content in body.get("content", {}).values():
                body["required"] = True
                content["schema"] = requested(expanded(content["schema"], document), ids, tame)
            for answer in operation["responses"].values():
                for content in answer.get("content", {}).values():
                    content["schema"] = recorded(path, method, content["schema"])
            operation["responses"]["4XX"] = {
                "description": "refused",
                "content": {"application/json": {"schema": ERROR}},
            }
    for schema in document.get("components", {}).get("schemas", {}).values():
        close(schema)
    for operation in operations(document):
        for answer in operation["responses"].values():
            close(answer)
    document.pop("webhooks", None)
    return document


def operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        yield from methods.values()


def inlined(value: Any, other: dict[str, Any]) -> Any:
    """`value` with what it names of openapi.json in its place."""
    if isinstance(value, list):
        return [inlined(item, other) for item in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref", "")
    if reference.startswith("openapi.json#"):
        return inlined(expanded(pointed(other, reference.removeprefix("openapi.json#")), other), other)
    return {name: inlined(item, other) for name, item in value.items()}


def pointed(document: Any, pointer: str) -> Any:
    for token in pointer.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~").replace("%7B", "{").replace("%7D", "}")
        document = document[int(token)] if isinstance(document, list) else document[token]
    return document


def expanded(schema: Any, document: dict[str, Any], within: tuple[str, ...] = ()) -> Any:
    """A schema with the parts that it names in their places, but for those that name themselves."""
    if isinstance(schema, list):
        return [expanded(item, document, within) for item in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref", "")
    if reference.startswith("#"):
        if reference in within:
            return {}
        return expanded(pointed(document, reference.removeprefix("#")), document, (*within, reference))
    return {name: expanded(item, document, within) for name, item in schema.items()}


def requested(schema: Any, ids: Ids, tame: bool) -> Any:
    """The schema of a body, with resources that are there and addresses that are nowhere."""
    if isinstance(schema, list):
        return [requested(item, ids, tame) for item in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {name: requested(item, ids, tame) for name, item in schema.items() if name != "discriminator"}
    properties = changed.get("properties")
    if not isinstance(properties, dict):
        return changed
    changed.setdefault("additionalProperties", False)
    for name, field in properties.items():
        plural = name.removesuffix("s")
        if name in ids:
            properties[name] = {"enum": ids[name]}
        elif plural in ids:
            properties[name] = {"type": "array", "items": {"enum": ids[plural]}, "maxItems": 1, "minItems": 1}
        elif name == "url" or name.endswith(("_url", "_endpoint")):
            properties[name] = {"enum": NOWHERE}
        elif tame:
            properties[name] = tamed(name, field)
    return changed


TAME = {
    "authorization_token": {"const": "t"},
    "expression": {"const": "0 3 * * *"},
    "model": {"const": "playbook"},
    "path": {"type": "string", "pattern": "^/[a-z]{1,12}$"},
    "timezone": {"const": "UTC"},
    "vault_ids": {"type": "array", "maxItems": 0},
}
"""Fields that a client cannot fill by chance."""


def tamed(name: str, schema: Any) -> Any:
    """The schema of a field or parameter as clients fill it."""
    if known := TAME.get(name):
        return known
    if name.startswith("created_at") or name.endswith(("_at", "_after", "_before")):
        return {"const": "2026-03-02T08:00:00Z"}
    return plain(schema)


def plain(schema: Any) -> Any:
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "string" and not schema.keys() & {"enum", "const", "format"}:
        return {"type": "string", "pattern": "^[a-z]{1,12}$"}
    if schema.get("type") == "integer":
        return {"type": "integer", "minimum": 1, "maximum": 20}
    return {name: item if name == "properties" else plain(item) for name, item in schema.items()}


def recorded(path: str, method: str, schema: dict[str, Any]) -> dict[str, Any]:
    """What the hosted service was recorded to send and the SDK's types do not say."""
    schema = copy.deepcopy(schema)
    if path.endswith("/work/poll") and method == "get":
        return {"anyOf": [schema, {"type": "null"}]}
    if path.endswith("/memories") and method == "get":
        schema["properties"]["prefixes"] = {"type": "array", "maxItems": 0}
    return schema


def close(value: Any) -> None:
    """The SDK's models keep fields that they do not know, so the contract leaves objects open. The server sends none of them."""
    if isinstance(value, list):
        for item in value:
            close(item)
    elif isinstance(value, dict):
        for item in value.values():
            close(item)
        properties = value.get("properties")
        if isinstance(properties, dict) and "acknowledged_at" in properties:
            properties["actor"] = {"type": "null"}
        if value.get("type") == "object" and isinstance(properties, dict):
            if value.get("additionalProperties", True) is True:
                value["additionalProperties"] = False
