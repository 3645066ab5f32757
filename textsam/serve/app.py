"""The ASGI application: routes, and everything that stands before them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from textsam import __version__
from textsam.errors import TextSAMError
from textsam.invalid import invalid_fields
from textsam.prompts import synonyms
from textsam.serve.edge import Edge
from textsam.serve.guard import LOOPBACK_NAMES, Guard
from textsam.serve.intake import Intake
from textsam.serve.problems import FrameNeededError, Refusal, no_room, problem, status_of
from textsam.serve.route import add_segment_route
from textsam.serve.settings import ServeSettings, is_loopback
from textsam.serve.worker import Worker

__all__ = ["create_app", "page_files"]

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_DESCRIPTION = "Segment medical images by words. Not a medical device."


def create_app(worker: Worker, settings: ServeSettings, folder: Path) -> FastAPI:
    """The application around a worker; starting it starts the worker, stopping it stops it.

    Args:
        worker: owns a loaded model; not started yet.
        settings: limits, token and the host, by which the names it answers to are known.
        folder: where uploads lie while they are looked at; from `upload_folder`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        # Requests are answered by now; what is still queued belongs to nobody.
        await run_in_threadpool(worker.stop, settings.timeout_s)

    app = FastAPI(
        title="TextSAM",
        version=__version__,
        description=_DESCRIPTION,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        # To http:// also where a proxy gave out https://: uploads and tokens would follow it.
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.worker = worker
    app.state.folder = folder
    _add_errors(app)
    _add_facts(app, worker, settings)
    add_segment_route(app, worker, settings)
    open_paths = {"/health", *_add_page(app)}
    # The last one added is the first one asked.
    app.add_middleware(
        Intake,
        path="/segment",
        capacity=settings.queue + worker.batch_size,
        max_body_bytes=settings.max_body_bytes,
        timeout_s=settings.timeout_s,
        # Half the queue is done by then, and places are free.
        retry_after_s=lambda: worker.mean_seconds * (worker.waiting + worker.working) / 2,
    )
    names = LOOPBACK_NAMES | {settings.host.lower()} if is_loopback(settings.host) else None
    app.add_middleware(Guard, names=names, token=settings.token, open_paths=open_paths)
    app.add_middleware(Edge)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(TextSAMError)
    async def textsam_error(_: Request, error: TextSAMError) -> Response:
        extra = {"frames": error.images} if isinstance(error, FrameNeededError) else {}
        return problem(status_of(error), type(error).__name__, str(error), extra=extra)

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return refusal.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        wrong = invalid_fields(error, "body", outer=1)
        return problem(422, "RequestError", f"the request cannot be used: {wrong}")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        # FastAPI tells a disk that does not take a large form as a form that cannot be read.
        if isinstance(error.__cause__, OSError):
            return no_room(error.__cause__).response()
        return problem(
            error.status_code, "RequestError", str(error.detail), headers=error.headers or {}
        )


def _add_facts(app: FastAPI, worker: Worker, settings: ServeSettings) -> None:
    segmenter = worker.segmenter

    @app.get("/health", summary="Whether requests are taken, and how long the queue is")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok" if worker.alive else "stopping",
            "ready": worker.alive,
            "textsam": __version__,
            "queue": {
                "waiting": worker.waiting,
                "working": worker.working,
                "capacity": settings.queue,
            },
        }

    @app.get("/prompts", summary="What the adapter was trained for, with synonyms")
    async def prompts() -> dict[str, Any]:
        return {"adapter": segmenter.adapter_name, "prompts": synonyms(segmenter.prompts)}

    @app.get("/models", summary="The loaded model and what it accepts")
    async def models() -> dict[str, Any]:
        loaded = {
            "model": segmenter.preset,
            "adapter": segmenter.adapter_name,
            "fingerprint": segmenter.fingerprint,
            "device": str(segmenter.device),
            "precision": str(segmenter.precision).removeprefix("torch."),
            "terms": segmenter.config.terms,
        }
        limits = {
            "max_body_bytes": settings.max_body_bytes,
            "max_pixels": settings.limits.max_pixels,
            "max_images": settings.limits.max_images,
            "max_inflated_bytes": settings.limits.max_inflated_bytes,
            "max_prompts": settings.max_prompts,
            "timeout_s": settings.timeout_s,
        }
        return {"models": [loaded], "limits": limits}


def _add_page(app: FastAPI) -> list[str]:
    """Serve the page's files from memory: no path of a request ever meets a disk."""
    found = page_files()

    async def send(request: Request) -> Response:
        content, media_type = found[request.url.path]
        return Response(content, media_type=media_type)

    for path in found:
        app.add_route(path, send, methods=["GET"])
    return list(found)


def page_files() -> dict[str, tuple[bytes, str]]:
    """Path in the address -> content and media type; the page itself is at "/"."""
    found: dict[str, tuple[bytes, str]] = {}
    for entry in files("textsam.serve").joinpath("page").iterdir():
        path = "/" if entry.name == "index.html" else f"/page/{entry.name}"
        if media_type := _MEDIA_TYPES.get(Path(entry.name).suffix):
            found[path] = (entry.read_bytes(), media_type)
    return found
