"""Many clients at one server for a while: is any answer lost, or given to another's image?

    python benchmarks/load.py --seconds 600 --out benchmarks/results/load.json
    python benchmarks/load.py --seconds 20 --tiny

Starts the server as a process of its own on loopback. Each client asks about one of K images after
the other; the right masks were computed beforehand with the library, and every answer is compared
with that of its own image. An answer 429 (queue full) is asked again after the time it names.

Reported: `lost`, requests without a good answer in the end; `mixed`, answers that are not of their
image; seconds from the request that was accepted to its answer (`p50_s`, `p99_s`), and with the
refusals before it (`p50_with_waiting_s`); how much the server's memory grew between the end of the
first tenth of the time and the end (`rss_drift_mib`).
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import platform
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "cell nucleus"
HOST = "127.0.0.1"
_BOUNDARY = "textsam-load"
_PAUSE_S = 1.0
_SERVER_TIMEOUT_S = 120
# A client that is refused again and again gives up after this: its request is lost.
_LONGEST_WAIT_S = 300.0

_TINY = """
from tiny import tiny_segmenter
from textsam.serve.run import open_listener, run_server
from textsam.serve.settings import ServeSettings
from textsam.serve.worker import Worker
settings = ServeSettings({settings})
run_server(Worker(tiny_segmenter()), settings, open_listener(settings))
"""


@dataclass
class Counts:
    """What the clients saw; guarded by `lock`."""

    requests: int = 0
    lost: int = 0
    mixed: int = 0
    rejected: int = 0
    seconds: list[float] = field(default_factory=list)
    seconds_with_waiting: list[float] = field(default_factory=list)
    problems: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def problem(self, what: str) -> None:
        """Count what went wrong, by kind."""
        self.problems[what] = self.problems.get(what, 0) + 1


def picture(number: int, side: int) -> NDArray[np.uint8]:
    """Bright discs on dark noise; place and number differ from image to image."""
    rng = np.random.default_rng(number)
    ys, xs = np.mgrid[:side, :side]
    grey = rng.normal(20, 4, (side, side))
    for _ in range(6 + number % 5):
        x, y = rng.uniform(0.1, 0.9, 2) * side
        radius = rng.uniform(0.03, 0.08) * side
        grey += 110 * np.exp(-((((xs - x) ** 2 + (ys - y) ** 2) / radius**2) ** 2))
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def form(pixels: NDArray[np.uint8]) -> bytes:
    """The request's body."""
    import io

    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format="PNG")
    start = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name="
    words = f'{start}"prompts"\r\n\r\n{PROMPT}\r\n'
    file = f'{start}"file"; filename="image"\r\n\r\n'
    return (words + file).encode() + buffer.getvalue() + f"\r\n--{_BOUNDARY}--\r\n".encode()


def digest(mask: NDArray[np.bool_]) -> str:
    """sha256 of a mask's values and shape."""
    return hashlib.sha256(f"{mask.shape}".encode() + np.packbits(mask).tobytes()).hexdigest()


def mask_digest(answer: dict[str, object]) -> str:
    """The same of the mask in a JSON answer."""
    mask = answer["results"][0]["mask"]  # type: ignore[index]
    runs = np.arange(len(mask["counts"])) % 2 == 1
    flat = np.repeat(runs, mask["counts"])
    return digest(np.ascontiguousarray(flat.reshape(mask["size"], order="F")))


class Client(threading.Thread):
    """Asks about one image after the other until the time is up."""

    def __init__(
        self,
        number: int,
        port: int,
        bodies: list[bytes],
        right: list[str],
        until: float,
        counts: Counts,
    ) -> None:
        super().__init__(daemon=True)
        self._rng = np.random.default_rng(1000 + number)
        self._port, self._bodies, self._right = port, bodies, right
        self._until, self._counts = until, counts

    def run(self) -> None:
        """Ask."""
        while time.monotonic() < self._until:
            image = int(self._rng.integers(len(self._bodies)))
            began = time.monotonic()
            found, seconds, rejected, problem = self._ask(image, began)
            with self._counts.lock:
                self._counts.requests += 1
                self._counts.rejected += rejected
                if found is None:
                    self._counts.lost += 1
                    self._counts.problem(problem)
                    continue
                self._counts.mixed += found != self._right[image]
                self._counts.seconds.append(seconds)
                self._counts.seconds_with_waiting.append(time.monotonic() - began)
            # Without a pause, whoever was just answered takes the place that this made free, and
            # who was refused hardly ever finds one.
            time.sleep(self._rng.exponential(_PAUSE_S))

    def _ask(self, image: int, began: float) -> tuple[str | None, float, int, str]:
        """Hash of the mask (None without one), seconds, refusals, and what went wrong."""
        rejected = 0
        while time.monotonic() - began < _LONGEST_WAIT_S:
            sent = time.monotonic()
            connection = http.client.HTTPConnection(HOST, self._port, timeout=_LONGEST_WAIT_S)
            try:
                kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
                connection.request("POST", "/segment", self._bodies[image], kind)
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                return None, 0.0, rejected, type(error).__name__
            finally:
                connection.close()
            if response.status == 200:
                try:
                    found = mask_digest(json.loads(body))
                except (ValueError, LookupError, TypeError) as error:
                    return None, 0.0, rejected, f"200, {type(error).__name__}"
                return found, time.monotonic() - sent, rejected, ""
            if response.status != 429:
                return None, 0.0, rejected, str(response.status)
            rejected += 1
            time.sleep(float(response.headers["Retry-After"]) * self._rng.uniform(1.0, 1.3))
        return None, 0.0, rejected, "always refused"


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def start(port: int, *, tiny: bool, model: str, queue: int) -> subprocess.Popen[bytes]:
    """The server as a process."""
    environment = {name: value for name, value in os.environ.items() if name != "TEXTSAM_TOKEN"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    if tiny:
        settings = f"port={port}, queue={queue}, timeout_s={_SERVER_TIMEOUT_S}"
        command = ["-c", _TINY.format(settings=settings)]
    else:
        command = ["-m", "textsam", "serve", "--port", str(port), "--model", model]
        # One image at a time: batches differ in the last bits, and masks are compared exactly.
        command += [
            "--queue",
            str(queue),
            "--timeout-s",
            str(_SERVER_TIMEOUT_S),
            "--batch-size",
            "1",
        ]
    return subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.DEVNULL)


def wait_until_ready(port: int, server: subprocess.Popen[bytes], seconds: float = 300) -> None:
    """Return when the server takes requests."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("GET", "/health")
            if json.loads(connection.getresponse().read())["ready"]:
                return
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    raise SystemExit("the server did not start")


def expected(tiny: bool, model: str, images: list[NDArray[np.uint8]]) -> tuple[list[str], str]:
    """The right masks, hashed, and the adapter's name."""
    if tiny:
        sys.path.insert(0, str(ROOT / "tests"))
        from tiny import tiny_segmenter

        segmenter = tiny_segmenter()
    else:
        from textsam import load_model

        segmenter = load_model(model)
    masks = [segmenter.segment(image, PROMPT).mask for image in images]
    return [digest(mask) for mask in masks], segmenter.adapter_name


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--images", type=int, default=24, help="more than the server keeps encoded")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--queue", type=int, default=16)
    parser.add_argument("--tiny", action="store_true", help="a tiny model with random weights")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    import psutil
    import torch

    import textsam

    images = [picture(number, arguments.side) for number in range(arguments.images)]
    right, adapter = expected(arguments.tiny, arguments.model, images)
    distinct = len(set(right))
    if distinct < len(right) // 2:
        raise SystemExit(f"only {distinct} of {len(right)} masks differ; mixing would not show")
    bodies = [form(image) for image in images]
    port = free_port()
    server = start(port, tiny=arguments.tiny, model=arguments.model, queue=arguments.queue)
    counts = Counts()
    try:
        wait_until_ready(port, server)
        process = psutil.Process(server.pid)
        began = time.monotonic()
        until = began + arguments.seconds
        clients = [
            Client(number, port, bodies, right, until, counts)
            for number in range(arguments.clients)
        ]
        for client in clients:
            client.start()
        time.sleep(arguments.seconds / 10)
        rss_early = process.memory_info().rss
        rss_highest = rss_early
        while any(client.is_alive() for client in clients):
            time.sleep(min(1.0, arguments.seconds / 20))
            rss_highest = max(rss_highest, process.memory_info().rss)
        took = time.monotonic() - began
        rss_late = process.memory_info().rss
        server.send_signal(signal.SIGTERM)
        exit_code = server.wait(60)
    finally:
        server.kill()
        server.wait()

    def quantile(values: list[float], q: float) -> float | None:
        return round(float(np.quantile(values, q)), 3) if values else None

    mib = 1024**2
    result = {
        "clients": arguments.clients,
        "seconds": round(took, 1),
        "requests": counts.requests,
        "lost": counts.lost,
        "mixed": counts.mixed,
        "rejected_429": counts.rejected,
        "p50_s": quantile(counts.seconds, 0.5),
        "p99_s": quantile(counts.seconds, 0.99),
        "p50_with_waiting_s": quantile(counts.seconds_with_waiting, 0.5),
        "p99_with_waiting_s": quantile(counts.seconds_with_waiting, 0.99),
        "rss_early_mib": round(rss_early / mib, 1),
        "rss_highest_mib": round(rss_highest / mib, 1),
        "rss_drift_mib": round((rss_late - rss_early) / mib, 1),
        "problems": counts.problems,
        "server_exit_code": exit_code,
        "images": len(images),
        "distinct_masks": distinct,
        "side_px": arguments.side,
        "queue": arguments.queue,
        "model": "tiny (random weights)" if arguments.tiny else arguments.model,
        "adapter": adapter,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "textsam": textsam.__version__,
        },
        "command": shlex.join(["python", "benchmarks/load.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")
    if counts.lost or counts.mixed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
