"""OpenAPI document of the worker.

The routes read their bodies themselves, because OpenAI's error shape is not FastAPI's, so FastAPI learns the schemas here.
"""

from typing import Any

from pydantic import BaseModel

_SCHEMA_PATH = "#/components/schemas/{model}"
_REFUSALS = {
    "400": "A value is wrong; param names it.",
    "401": "The key is missing or wrong.",
    "413": "The body is too large.",
    "429": "The queue is full; Retry-After says when to come again.",
    "500": "The model failed.",
    "503": "The model is still being loaded.",
}


class ErrorDetail(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    code: str | None
    param: str | None


class Error(BaseModel):
    """The body of every refusal."""

    error: ErrorDetail


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """A route's body and refusals, for FastAPI's openapi_extra."""
    content = {"application/json": {"schema": {"$ref": _SCHEMA_PATH.format(model=body.__name__)}}}
    error = {"application/json": {"schema": {"$ref": _SCHEMA_PATH.format(model=Error.__name__)}}}
    refusals = {status: {"description": text, "content": error} for status, text in _REFUSALS.items()}
    return {"requestBody": {"required": True, "content": content}, "responses": refusals}


def add_schemas(document: dict[str, Any], *bodies: type[BaseModel]) -> None:
    """Put the bodies' schemas where `takes` refers to them."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for body in bodies:
        schema = body.model_json_schema(ref_template=_SCHEMA_PATH)
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
