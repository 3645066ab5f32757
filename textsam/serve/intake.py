"""How much comes in: bytes of a body, seconds it may take, and requests at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from textsam.serve.problems import Refusal
from textsam.serve.unknown import log_unknown

__all__ = ["Intake"]

# After a refusal the rest of the body is read for so long: a client that is still sending would
# otherwise see a broken connection instead of the answer.
_DRAIN_S = 2.0
# The application knows best what took so long and what to put away: it has this time to say so.
_LAST_WORD_S = 0.2


class Intake:
    """ASGI middleware that bounds what requests can make the server hold.

    Requests to `path` take one of `capacity` places before their body is read, and give it back
    when they are answered; without a free place they are refused. Bytes are counted as they
    arrive, whatever Content-Length says. `scope["state"]["deadline"]` is the event loop's time at
    which the request has to be answered. What has no answer by then goes on for nobody, as a thread
    cannot be stopped, and keeps its place until it has finished.

    Args:
        app: what is bounded.
        path: of the requests that take a place.
        capacity: places.
        max_body_bytes: largest body of any request.
        timeout_s: seconds for a request, its body included.
        retry_after_s: says how long a refused client should wait, in seconds.

    A body too large is answered with 413, one that does not arrive in time with 408, and one that
    nothing was answered to in time with 504.

    Raises (to the outer middleware):
        Refusal: 429, without a place.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        path: str,
        capacity: int,
        max_body_bytes: int,
        timeout_s: float,
        retry_after_s: Callable[[], float],
    ) -> None:
        self._app = app
        self._path = path
        self._capacity = capacity
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s
        self._retry_after_s = retry_after_s
        self._taken = 0
        # Requests answered with 504 that are still being worked on; each has a place.
        self._late: set[asyncio.Future[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Bound one request; anything that is not HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] != self._path or scope["method"] != "POST":
            await self._bounded(scope, receive, send)
            return
        if self._taken + len(self._late) >= self._capacity:
            seconds = max(1, math.ceil(self._retry_after_s()))
            raise Refusal(
                429,
                "BusyError",
                f"the server is busy; try again in {seconds} s",
                headers={"Retry-After": str(seconds)},
            )
        self._taken += 1
        try:
            await self._bounded(scope, receive, send)
        finally:
            self._taken -= 1

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        scope.setdefault("state", {})["deadline"] = deadline
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_body_bytes:
            await _answer_and_drain(self._too_large(), scope, receive, send)
            return
        read_bytes = 0
        more = True
        started = False
        refusal: Refusal | None = None

        async def counted() -> Message:
            nonlocal read_bytes, more, refusal
            if not more:  # what comes now is the end of the connection, which may take its time
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                refusal = self._too_slow()
                raise refusal from None
            more = message["type"] == "http.request" and bool(message.get("more_body", False))
            read_bytes += len(message.get("body", b""))
            if read_bytes > self._max_body_bytes:
                refusal = self._too_large()
                raise refusal
            return message

        # What the application makes of a refusal raised while it reads is its own affair (FastAPI
        # answers 400); the client gets the refusal.
        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if refusal is None:
                started = True
                await send(message)

        async def answer() -> None:
            await self._app(scope, counted, send_unless_refused)

        answering = asyncio.ensure_future(answer())
        left_s = deadline + _LAST_WORD_S - asyncio.get_running_loop().time()
        try:
            await asyncio.wait({answering}, timeout=left_s)
            if not answering.done() and not started and refusal is None:
                refusal = self._too_slow() if more else self._too_late()
                self._late.add(answering)
                answering.add_done_callback(self._finished)
            else:  # an answer that has begun goes out
                await answering
        except asyncio.CancelledError:
            answering.cancel()
            raise
        except Exception:
            if refusal is None:
                raise
        if refusal is not None:
            await _answer_and_drain(refusal, scope, receive, send, drain=more)

    def _finished(self, late: asyncio.Future[None]) -> None:
        self._late.discard(late)
        if not late.cancelled() and (error := late.exception()) is not None:
            log_unknown(error)

    def _too_slow(self) -> Refusal:
        return Refusal(
            408,
            "TimeoutError",
            f"the request did not arrive within {self._timeout_s:g} s; send less, or try again",
            headers={"Connection": "close"},
        )

    def _too_late(self) -> Refusal:
        return Refusal(
            504,
            "TimeoutError",
            f"there was no answer within {self._timeout_s:g} s; send a smaller file, ask less, or "
            "try again later",
        )

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "LimitError",
            f"the request has more than {self._max_body_bytes:,} bytes; send a smaller file",
            headers={"Connection": "close"},
        )


async def _answer_and_drain(
    refusal: Refusal, scope: Scope, receive: Receive, send: Send, *, drain: bool = True
) -> None:
    """Send the whole answer, read on for a while, then end it."""

    async def send_open_ended(message: Message) -> None:
        if message["type"] == "http.response.body" and drain:
            message = {**message, "more_body": True}
        await send(message)

    await refusal.response()(scope, receive, send_open_ended)
    if not drain:
        return
    try:
        async with asyncio.timeout(_DRAIN_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass  # the client keeps sending: closing on it is what is left
    await send({"type": "http.response.body", "body": b"", "more_body": False})
