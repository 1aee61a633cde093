"""What clients are told when something is wrong: a class a cause, in OpenAI's error format."""

from __future__ import annotations

import json
from typing import Any

from serac_core.errors import SeracError


class ApiError(SeracError):
    """An answer that is an error: status, type and code of OpenAI's format.

    Parameters
    ----------
    param:
        The field of the request that is wrong.
    retry_after:
        Seconds after which it may be tried again.
    """

    status = 500
    type = "server_error"
    code = "internal_error"

    def __init__(
        self,
        what: str,
        *,
        remedy: str,
        param: str | None = None,
        retry_after: int | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code

    def as_dict(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        return {
            "error": {
                "message": f"{self.what}; {self.remedy}",
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def body(self) -> bytes:
        """The format in bytes; what UTF-8 can't hold is escaped."""
        return json.dumps(self.as_dict()).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        found = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            found.append((b"retry-after", str(self.retry_after).encode()))
        return found


class BadRequest(ApiError):
    """A request that no try makes better."""

    status, type, code = 400, "invalid_request_error", "invalid_request"


class TooLong(BadRequest):
    """A question and its edit don't fit into the local model that answers."""

    code = "context_length_exceeded"


class BadKey(ApiError):
    """No key, or none that is known."""

    status, type, code = 401, "authentication_error", "invalid_api_key"

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [*super().headers(), (b"www-authenticate", b"Bearer")]


class Forbidden(ApiError):
    """A known key that may not do this."""

    status, type, code = 403, "permission_error", "forbidden"


class NotFound(ApiError):
    """No such thing here."""

    status, type, code = 404, "invalid_request_error", "not_found"


class MethodNotAllowed(ApiError):
    """The path is there and does something else."""

    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class SlowRequest(ApiError):
    """A request whose body did not come."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


class TooLarge(ApiError):
    """A request longer than is read."""

    status, type, code = 413, "invalid_request_error", "request_too_large"


class Busy(ApiError):
    """More is asked than can wait."""

    status, type, code = 429, "rate_limit_error", "server_busy"


class Internal(ApiError):
    """A fault of the server's own; what it was stands in its log."""


class UpstreamFailed(ApiError):
    """The upstream can't be reached, or what it says is no HTTP."""

    status, type, code = 502, "upstream_error", "upstream_failed"


class Unavailable(ApiError):
    """The scope can't be decided, or there is no release."""

    status, type, code = 503, "server_error", "unavailable"


class UpstreamTimeout(ApiError):
    """The upstream says nothing."""

    status, type, code = 504, "upstream_error", "upstream_timeout"


class AnswerTimeout(ApiError):
    """A local model did not answer in time."""

    status, type, code = 504, "server_error", "answer_timeout"
