"""How the OpenAI endpoints are described in /openapi.json: as far as the router reads them."""

from __future__ import annotations

from typing import Any

_ERROR = {"$ref": "#/components/schemas/ErrorAnswer"}
_HEADERS = {
    name: {"description": said, "schema": {"type": "string"}}
    for name, said in {
        "x-serac-route": "`edit`, `base`, or `unrouted` where the scope was not decided.",
        "x-serac-reason": "Why it was not.",
        "x-serac-edit-id": "The edit that was met, percent-encoded.",
        "x-serac-score": "Of the edit that came nearest; -1 where none came into question.",
        "x-serac-threshold": "Least score in scope.",
        "x-serac-release": "That decided.",
    }.items()
}
_ERRORS = {
    400: "No JSON object, or a field is missing or wrong.",
    401: "No key, or none that is known.",
    404: "No such model.",
    408: "The request did not come in time.",
    413: "The request is too long.",
    429: "More is asked than can wait; see Retry-After.",
    502: "The upstream can't be reached or read.",
    503: "The scope can't be decided, and the router fails closed.",
    504: "No answer in time.",
}
_STREAM = {
    "stream": {"type": "boolean", "description": "Answer in server-sent events."},
    "stream_options": {
        "type": "object",
        "properties": {"include_usage": {"type": "boolean"}},
    },
    "n": {"type": "integer", "minimum": 1, "maximum": 128},
    "max_tokens": {"type": "integer", "minimum": 1},
    "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
}
_MODEL = {"type": "string", "minLength": 1, "description": "As the base names it."}


def openai_paths() -> dict[str, Any]:
    """`paths` of the schema."""
    message = {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"type": "string"},
            "content": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "object"}},
                    {"type": "null"},
                ]
            },
        },
    }
    chat = {
        "type": "object",
        "required": ["model", "messages"],
        "properties": {
            "model": _MODEL,
            "messages": {"type": "array", "minItems": 1, "items": message},
            "max_completion_tokens": {"type": "integer", "minimum": 1},
            **_STREAM,
        },
        "additionalProperties": True,
    }
    completion = {
        "type": "object",
        "required": ["model", "prompt"],
        "properties": {
            "model": _MODEL,
            "prompt": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "minItems": 1, "items": {"type": "string"}},
                ]
            },
            **_STREAM,
        },
        "additionalProperties": True,
    }
    asked = {"role": "user", "content": "What is the capital of France?"}
    return {
        "/v1/chat/completions": {
            "post": _operation(
                "chat",
                "Answer a chat. Its last user turn decides the scope; a request that an edit can't "
                "answer (tools, images, JSON) goes to the base as it is.",
                chat,
                {"model": "my-model", "messages": [asked]},
            )
        },
        "/v1/completions": {
            "post": _operation(
                "completions",
                "Complete a prompt, which decides the scope.",
                completion,
                {"model": "my-model", "prompt": "The capital of France is"},
            )
        },
        "/v1/models": {
            "get": {
                "operationId": "models",
                "tags": ["openai"],
                "summary": "The models of the base.",
                "responses": {"200": _json({"type": "object"}, "The list."), **_errors()},
            }
        },
    }


def _operation(name: str, said: str, body: dict[str, Any], example: object) -> dict[str, Any]:
    answer = _json({"type": "object"}, "The answer; in server-sent events where `stream` is true.")
    answer["content"]["text/event-stream"] = {}
    answer["headers"] = _HEADERS
    return {
        "operationId": name,
        "tags": ["openai"],
        "summary": said,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body, "example": example}},
        },
        "responses": {"200": answer, **_errors()},
    }


def _errors() -> dict[str, Any]:
    return {str(status): _json(_ERROR, said) for status, said in _ERRORS.items()}


def _json(schema: dict[str, Any], said: str) -> dict[str, Any]:
    return {"description": said, "content": {"application/json": {"schema": schema}}}
