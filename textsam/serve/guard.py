"""Who may ask: the names this server answers to, pages of other sites, the token."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from textsam.serve.problems import Refusal

__all__ = ["LOOPBACK_NAMES", "Guard"]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Guard:
    """ASGI middleware that refuses before anything of the body is read.

    * Host: where `names` is given, any other name is refused. Without it a web page could reach a
      server on loopback by a name of its own that resolves to 127.0.0.1 (DNS rebinding).
    * Origin: a browser says which page sends a request; pages of other sites are refused, as a form
      could otherwise be sent from anywhere.
    * Path: those with a line break at their end are nowhere. The router takes "/segment\\n" for
      "/segment", and what counts requests by their path does not.
    * Authorization: "Bearer TOKEN", compared in constant time, for all paths but `open_paths`.

    Raises (to the outer middleware):
        Refusal: 400, 403, 404 or 401.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Collection[str] | None,
        token: str | None,
        open_paths: Collection[str],
    ) -> None:
        self._app = app
        self._names = names
        self._token = None if token is None else token.encode()
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request; anything that is not HTTP passes through."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_origin(headers)
            if scope["path"].endswith("\n"):
                raise Refusal(404, "RequestError", "Not Found")
            if self._token is not None and scope["path"] not in self._open_paths:
                self._check_token(headers, self._token)
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        if self._names is not None and _name(headers.get("host", "")) not in self._names:
            raise Refusal(
                400,
                "HostError",
                f"this server answers to {', '.join(sorted(self._names))} only; use one of these "
                "in the address",
            )

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != headers.get("host", "").lower():
            raise Refusal(
                403,
                "OriginError",
                "requests from web pages of other sites are refused; use this server's own page, "
                "or a program that sends no Origin header",
            )

    def _check_token(self, headers: Headers, token: bytes) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Always one comparison of bytes, so that the time tells nothing.
        right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token)
        if scheme.lower() != "bearer" or not right:
            raise Refusal(
                401,
                "TokenError",
                "this server asks for a token: send the header 'Authorization: Bearer TOKEN'",
                headers={"WWW-Authenticate": 'Bearer realm="textsam"'},
            )


def _netloc(origin: str) -> str | None:
    """Host and port of an Origin header; None for one that no browser sends."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _name(host: str) -> str:
    """The host of a Host header without its port; IPv6 addresses stay in brackets."""
    host = host.strip().lower()
    name, _, port = host.rpartition(":")
    return name if name and port.isdecimal() and not name.endswith(":") else host
