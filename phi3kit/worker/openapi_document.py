"""OpenAPI document of the worker.

The routes read their bodies themselves, because OpenAI's error shape is not FastAPI's, so FastAPI learns the schemas here.
"""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

_SCHEMA_PATH = "#/components/schemas/{model}"
_REFUSALS = {
    "400": "A value is wrong; param names it.",
    "401": "The key is missing or wrong.",
    "413": "The body is too large.",
    "429": "The queue is full; Retry-After says when to try again.",
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


def takes(body: type[BaseModel], answer: str, chunk: str | None = None) -> dict[str, Any]:
    """A route's body, answer and refusals, for FastAPI's openapi_extra. answer, chunk: schemas of openai_answers."""
    refusals = {status: {"description": text, "content": _json(Error.__name__)} for status, text in _REFUSALS.items()}
    described = gives(answer, chunk)
    described["responses"] |= refusals
    return {"requestBody": {"required": True, "content": _json(body.__name__)}, **described}


def gives(answer: str, chunk: str | None = None) -> dict[str, Any]:
    """A route's answer, for FastAPI's openapi_extra. chunk: the data of a stream's events."""
    content = _json(answer)
    if chunk:
        content["text/event-stream"] = {"schema": {"$ref": _SCHEMA_PATH.format(model=chunk)}}
    return {"responses": {"200": {"description": "The answer.", "content": content}}}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _SCHEMA_PATH.format(model=schema)}}}


def describe(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Let the application's document have the schemas to which its routes refer, once somebody asks for it."""
    without_schemas = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            from phi3kit.formats.openai_answers import ANSWERS

            _add_schemas(without_schemas(), *bodies, *ANSWERS, Error)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _add_schemas(document: dict[str, Any], *bodies: type[BaseModel]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for body in bodies:
        schema = body.model_json_schema(ref_template=_SCHEMA_PATH)
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
