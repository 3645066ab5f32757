"""What tests of the server share: images, a client, and a model that can be held up."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import PIL.Image
import uvicorn
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from tiny import tiny_segmenter

from textsam.inference.segmenter import Segmenter
from textsam.io.limits import Limits
from textsam.serve.app import create_app
from textsam.serve.settings import ServeSettings
from textsam.serve.upload import upload_folder
from textsam.serve.worker import Worker

TOKEN = "correct-horse-battery-staple"


def picture(seed: int = 0, height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    """A disc on noise, elsewhere for every seed."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:height, :width]
    x, y = rng.uniform(0.3, 0.7, 2) * (width, height)
    disc = (xs - x) ** 2 + (ys - y) ** 2 < (height * 0.2) ** 2
    grey = np.clip(rng.normal(60, 20, (height, width)) + 130 * disc, 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def png(seed: int = 0) -> bytes:
    return encoded(picture(seed))


def mask_of(entry: dict[str, Any]) -> NDArray[np.bool_]:
    """The mask of one result of a JSON answer, decoded without the server's code."""
    mask = entry["mask"]
    if mask["encoding"] == "png":
        return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(mask["data"])))) == 255
    values: list[int] = []
    for run, length in enumerate(mask["counts"]):
        values += [run % 2] * length
    return np.array(values, dtype=bool).reshape(mask["size"], order="F")


def digest(mask: NDArray[np.bool_]) -> str:
    return hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()


class Held:
    """A segmenter whose batches wait until `release` is set."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.release = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._segmenter, name)

    def segment_batch(self, images: list[Any], prompts: Any, **options: Any) -> Iterator[Any]:
        self.batches.append(len(images))
        self.entered.set()
        assert self.release.wait(120)
        yield from self._segmenter.segment_batch(images, prompts, **options)


def small_limits(**changes: int) -> Limits:
    fields = {
        "max_bytes": 1 << 20,
        "max_pixels": 100_000,
        "max_images": 50,
        "max_inflated_bytes": 1 << 20,
    }
    return Limits(**{**fields, **changes})


@contextmanager
def served(
    segmenter: Any = None,
    *,
    batch_size: int = 1,
    headers: dict[str, str] | None = None,
    **settings: Any,
) -> Iterator[TestClient]:
    """A client of a running application."""
    worker = Worker(segmenter or tiny_segmenter(), batch_size=batch_size)
    with upload_folder() as folder:
        app = create_app(worker, ServeSettings(**settings), folder)
        with TestClient(app, base_url="http://127.0.0.1", headers=headers) as client:
            yield client


def ask(client: TestClient, data: bytes | None = None, **fields: Any) -> Any:
    """POST /segment; `prompts` is "tumor" unless told."""
    form = {"prompts": "tumor", **fields}
    upload = png() if data is None else data
    return client.post("/segment", files={"file": ("scan.png", upload)}, data=form)


def queue_of(client: TestClient) -> dict[str, int]:
    """What the server says about its queue."""
    queue: dict[str, int] = client.get("/health").json()["queue"]
    return queue


def pass_time(client: TestClient, seconds: float) -> None:
    """Set the server's clock ahead, so that what waits for a time need not be waited for."""
    assert client.portal is not None
    loop: Any = client.portal.call(asyncio.get_running_loop)
    before = loop.time
    loop.time = lambda: before() + seconds
    client.portal.call(lambda: None)  # the loop looks at its clock when it has something to do


def error_of(response: Any) -> tuple[int, str]:
    error = response.json()["error"]
    assert error["message"]
    return response.status_code, error["type"]


@contextmanager
def live(segmenter: Any = None, *, batch_size: int = 1, **settings: Any) -> Iterator[int]:
    """The port of a real server on loopback, in a thread."""
    worker = Worker(segmenter or tiny_segmenter(), batch_size=batch_size)
    with upload_folder() as folder:
        app = create_app(worker, ServeSettings(**settings), folder)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, http="h11", log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield server.servers[0].sockets[0].getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(120)
            assert not thread.is_alive()


def wait_until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def multipart(data: bytes, prompts: list[str]) -> tuple[bytes, str]:
    """A form as bytes, and its content type."""
    parts = [
        b'Content-Disposition: form-data; name="prompts"\r\n\r\n' + prompt.encode()
        for prompt in prompts
    ]
    parts.append(b'Content-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + data)
    body = b"".join(b"--edge\r\n" + part + b"\r\n" for part in parts) + b"--edge--\r\n"
    return body, "multipart/form-data; boundary=edge"
