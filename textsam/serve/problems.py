"""Every refusal as JSON: {"error": {"type", "message"}}, and which status code it has."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

from textsam.errors import ImageError, LimitError, TextSAMError, system_reason

__all__ = ["FrameNeededError", "Refusal", "UnknownFileError", "no_room", "problem", "status_of"]


class Refusal(Exception):  # noqa: N818  # not an error of the server
    """A request is refused with a status code.

    Attributes:
        status: HTTP status code.
        kind: short name for programs.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The answer to send."""
        return problem(self.status, self.kind, self.message, headers=self.headers)


class UnknownFileError(ImageError):
    """The upload is none of the file types that are read."""


class FrameNeededError(ImageError):
    """The upload holds several images and the request does not say which.

    Attributes:
        images: how many there are.
    """

    def __init__(self, message: str, images: int) -> None:
        super().__init__(message)
        self.images = images


def no_room(error: OSError) -> Refusal:
    """What to say where the disk does not take an upload: neither who sent it nor we are wrong."""
    _, why = system_reason(error)
    return Refusal(
        507,
        "StorageError",
        f"the server cannot keep the upload ({why}); try again later, or have space freed in its "
        "folder for temporary files",
    )


def status_of(error: TextSAMError) -> int:
    """413 where a limit is exceeded, 415 for a file of unknown type, else 422."""
    if isinstance(error, LimitError):
        return 413
    return 415 if isinstance(error, UnknownFileError) else 422


def problem(
    status: int,
    kind: str,
    message: str,
    *,
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, object] | None = None,
) -> Response:
    """A JSON answer that says what is wrong."""
    body = {"error": {"type": kind, "message": message, **(extra or {})}}
    return Response(
        # Half a character, quoted from what was sent, becomes its escape in JSON.
        json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace"),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/json",
    )
