"""`POST /segment`: from a request to the worker and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, Form, Request, UploadFile
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from textsam.errors import PromptError
from textsam.inference.batch import BatchAnswer
from textsam.inference.segmenter import Segmenter
from textsam.serve.answers import MaskEncoding, check_seg, json_answer, png_answer, seg_answer
from textsam.serve.problems import Refusal
from textsam.serve.settings import ServeSettings
from textsam.serve.upload import Upload, saved_upload
from textsam.serve.worker import Job, Worker

__all__ = ["add_segment_route"]

_MAX_REFINE = 16
# All masks of an answer together may have this many times the pixels of the largest image.
_ANSWER_IMAGES = 4
_ONCE = frozenset(
    ("file", "refine", "strict", "frame", "axis", "window", "format", "masks", "overlay", "preview")
)
_REPEATABLE = frozenset(("prompts",))
_OF_JSON = ("masks", "overlay", "preview")
_ONLY_FOR = {"axis": "NIfTI", "window": "DICOM"}

_PROBLEM: dict[str, Any] = {
    "description": "Refused; the body says why.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "error": {
                        "type": "object",
                        "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
                    }
                },
            }
        }
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The masks.",
        "content": {"application/json": {}, "image/png": {}, "application/dicom": {}},
    },
    **dict.fromkeys((400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504, 507), _PROBLEM),
}


def add_segment_route(app: FastAPI, worker: Worker, settings: ServeSettings) -> None:
    """Add the route; `app.state.folder` is where uploads lie while they are looked at."""

    @app.post(
        "/segment",
        summary="Find what prompts name in an image",
        response_class=Response,
        responses=_ANSWERS,
        # Here, so that a field that is missing for being in the address is not all that is said.
        dependencies=[Depends(_check_address), Depends(_check_form)],
    )
    async def segment(
        request: Request,
        file: Annotated[
            UploadFile, File(description="PNG, JPEG, BMP, TIFF, NIfTI or DICOM; its name is unused")
        ],
        prompts: Annotated[list[str], Form(description="a word or more; repeatable")],
        refine: Annotated[
            int | None, Form(ge=0, le=_MAX_REFINE, description="refinement passes")
        ] = None,
        strict: Annotated[bool, Form(description="refuse unknown prompts")] = False,
        frame: Annotated[int | None, Form(ge=0, description="frame, page or slice, from 0")] = None,
        axis: Annotated[
            int | None, Form(ge=0, le=2, description="of a volume: the axis it is cut across")
        ] = None,
        window: Annotated[
            int, Form(ge=-1, description="of DICOM: which window, from 0; -1: all values")
        ] = 0,
        answer_format: Annotated[Literal["json", "png", "seg"], Form(alias="format")] = "json",
        masks: Annotated[MaskEncoding, Form(description="how JSON holds masks")] = "rle",
        overlay: Annotated[bool, Form(description="pictures of the masks in JSON")] = False,
        preview: Annotated[bool, Form(description="what the model saw, in JSON")] = False,
    ) -> Response:
        # Of a field given twice FastAPI takes the last, and it drops those it does not know.
        fields = [name for name, _ in (await request.form()).multi_items()]
        _check_fields(fields, answer_format)
        words = tuple(prompts)
        if answer_format == "png" and len(words) != 1:
            raise PromptError(
                f"format=png holds one mask and {len(words)} prompts were asked; ask one, or take "
                "format=json with masks=png"
            )
        warnings = _unknown(worker.segmenter, words, strict, settings.max_prompts)
        began = time.perf_counter()
        with ExitStack() as kept:
            path, kind = await run_in_threadpool(
                kept.enter_context, saved_upload(file.file, request.app.state.folder)
            )
            _check_fields_of_kind(fields, kind)
            upload = await run_in_threadpool(
                Upload,
                path,
                kind,
                frame=frame,
                axis=axis,
                window=window,
                limits=settings.limits,
                prompts=len(words),
                max_answer_px=_ANSWER_IMAGES * settings.limits.max_pixels,
            )
            if answer_format == "seg":
                await run_in_threadpool(check_seg, upload)
            answer = await _answered(request, worker, Job(upload.read, words, refine))
            if answer.error is not None:
                raise answer.error
            results = answer.answers
            if answer_format == "png":
                return await run_in_threadpool(png_answer, results[0])
            if answer_format == "seg":
                return await run_in_threadpool(
                    seg_answer,
                    results,
                    upload,
                    model_identity=worker.segmenter.identity,
                    refine=refine,
                )
            return await run_in_threadpool(
                json_answer,
                results,
                upload,
                masks=masks,
                overlay=overlay,
                preview=preview,
                warnings=warnings,
                seconds=time.perf_counter() - began,
            )


def _check_address(request: Request) -> None:
    """Refuse parameters of the address, which would have no say.

    Raises:
        Refusal: 422, there is one.
    """
    for name in request.query_params:
        if name in _ONCE | _REPEATABLE:
            wrong = f"{name} is given in the address; give it as a field of the form"
        else:
            known = ", ".join(sorted(_ONCE | _REPEATABLE))
            wrong = f"there is no {name[:40]!r}, in the address or the form; give fields of {known}"
        raise _unusable(wrong)


async def _check_form(request: Request) -> None:
    """Refuse what is no form with a file in it, of which all fields would be called missing.

    Raises:
        Refusal: 422, another media type, or a file that was sent as text.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        wrong = f"it is {kind[:40] or 'of no type'}; send a form, multipart/form-data"
    elif isinstance((await request.form()).get("file"), str):
        wrong = "file is text; send it as a file, with a file name (curl -F file=@scan.dcm)"
    else:
        return
    raise _unusable(wrong)


def _check_fields(names: Sequence[str], answer_format: str) -> None:
    """Refuse fields that would have no say.

    Raises:
        Refusal: 422, a field this server does not know, a single one given several times, or one
            that is for another format of the answer.
    """
    for name in names:
        if name not in _ONCE | _REPEATABLE:
            known = ", ".join(sorted(_ONCE | _REPEATABLE))
            wrong = f"there is no field {name[:40]!r}; give some of {known}"
        elif name in _ONCE and names.count(name) > 1:
            wrong = f"{name} is given {names.count(name)} times; give it once"
        elif name in _OF_JSON and answer_format != "json":
            wrong = (
                f"{name} is for format=json, and format is {answer_format}; leave one of them out"
            )
        else:
            continue
        raise _unusable(wrong)


def _check_fields_of_kind(names: Sequence[str], kind: str) -> None:
    """Refuse fields that would have no say on a file of this kind.

    Raises:
        Refusal: 422, there is one.
    """
    called = "NIfTI" if kind in ("nifti", "gzip") else kind.upper()
    for name, only in _ONLY_FOR.items():
        if name in names and called != only:
            wrong = f"{name} is for {only}, and the file is {called}; leave it out"
            raise _unusable(wrong)


def _unusable(wrong: str) -> Refusal:
    return Refusal(422, "RequestError", f"the request cannot be used: {wrong}")


def _unknown(
    segmenter: Segmenter, prompts: Sequence[str], strict: bool, max_prompts: int
) -> list[str]:
    """What to say about prompts the adapter was not trained for.

    Raises:
        PromptError: an empty or overlong prompt, too many, or, with `strict`, an unknown one.
    """
    if len(prompts) > max_prompts:
        raise PromptError(f"{len(prompts)} prompts were asked, at most {max_prompts} are answered")
    warnings = []
    for prompt in prompts:
        if not prompt.isascii() and any("\ud800" <= character <= "\udfff" for character in prompt):
            raise PromptError("a prompt holds half of a character; send the form as UTF-8")
        if strict:
            segmenter.questions(prompt, strict=True)
        elif doubt := segmenter.understood(prompt).doubt:
            warnings.append(doubt)
    return warnings


async def _answered(request: Request, worker: Worker, job: Job) -> BatchAnswer:
    """Wait for the worker, no longer than the request's deadline and its client last.

    Raises:
        Refusal: 503 when the worker has stopped, 504 when the time is up; 499, for the log alone,
            when the client has gone.
    """
    if not worker.alive:
        raise Refusal(503, "StoppingError", "the server is stopping; try again later")
    deadline: float = request.scope["state"]["deadline"]
    left_s = deadline - asyncio.get_running_loop().time()
    if left_s <= 0:  # opening took it all, and the model is not kept busy for nobody
        raise _too_late()
    worker.submit(job)
    answer = asyncio.wrap_future(job.future)
    gone = asyncio.ensure_future(_disconnected(request))
    either: set[asyncio.Future[Any]] = {answer, gone}
    try:
        await asyncio.wait(either, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        if gone.done():
            raise Refusal(499, "ClientGone", "the client closed the connection")
        raise _too_late()
    finally:
        gone.cancel()
        answer.cancel()
        worker.discard(job)


def _too_late() -> Refusal:
    return Refusal(504, "TimeoutError", "the answer took too long; ask less, or try again later")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
