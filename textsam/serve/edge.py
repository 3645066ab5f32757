"""Around every request: security headers, one line of log, and no unknown error gets out."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from textsam.serve.problems import Refusal, problem
from textsam.serve.unknown import log_unknown

__all__ = ["CONTENT_SECURITY_POLICY", "Edge"]

# The name is fixed: whoever embeds the application finds its log under it.
_LOG = logging.getLogger("textsam.serve")

# blob: and data: show images that came with an answer or from the user's own disk.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}

# Paths the log may name; all others could hold anything a client likes to write into a log.
_KNOWN_PATHS = frozenset({"/", "/segment", "/prompts", "/models", "/health", "/openapi.json"})


class Edge:
    """ASGI middleware; the outermost one.

    The log has method, path, status and duration. File names, prompts, header values of files and
    messages of unknown errors, which may quote any of these, are left out.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; anything that is not HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Refusal as refusal:
            if not status:
                await refusal.response()(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001  # the last place where it can be caught
            number = log_unknown(error)
            if not status:
                message = f"the server made a mistake; its log has it as {number}"
                answer = problem(500, "InternalError", message, extra={"id": number})
                await answer(scope, receive, send_with_headers)
        finally:
            path = scope["path"]
            known = path if path in _KNOWN_PATHS or status == 200 else "(other)"
            seconds = time.perf_counter() - began
            _LOG.info("%s %s %d %.3f s", scope["method"], known, status, seconds)
