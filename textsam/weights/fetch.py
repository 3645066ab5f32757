"""Fetch one file over HTTP: resumed where it broke off, checked while it streams, moved into place.

Two processes that want the same file do not fetch it twice: the second waits and finds it there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textsam.errors import WeightsError
from textsam.weights.checksum import sha256_of

if TYPE_CHECKING:
    import requests

__all__ = ["FetchError", "fetch", "offline_reason", "with_endpoint"]

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = (10.0, 60.0)  # connect, then between two blocks
_ATTEMPTS_PER_URL = 3
_PAUSE_S = 1.0  # before another attempt
_SPARE_BYTES = 16 << 20
_TRUE = frozenset({"1", "true", "yes", "on"})

Advance = Callable[[int, int | None], None]  # (bytes present, total bytes if known)


class FetchError(WeightsError):
    """No URL gave the file. `reasons` holds one sentence per attempt."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class _InterruptedError(Exception):
    """The connection broke: worth another attempt at the same URL, from where it stopped."""


class _RefusedError(Exception):
    """The URL does not give the file: go on to the next one."""


@dataclass(frozen=True)
class _Wanted:
    size_bytes: int | None
    sha256: str | None


def offline_reason() -> str | None:
    """Return which variable forbids the network ("TEXTSAM_OFFLINE=1"), or None."""
    for name in ("TEXTSAM_OFFLINE", "HF_HUB_OFFLINE"):
        value = os.environ.get(name, "")
        if value.strip().lower() in _TRUE:
            return f"{name}={value}"
    return None


def with_endpoint(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return `url` with the hub's host replaced by HF_ENDPOINT (a mirror), if that is set."""
    hub = "https://huggingface.co/"
    endpoint = environment.get("HF_ENDPOINT", "").rstrip("/")
    return f"{endpoint}/{url.removeprefix(hub)}" if endpoint and url.startswith(hub) else url


def fetch(
    urls: tuple[str, ...],
    target: Path,
    *,
    size_bytes: int | None,
    sha256: str | None,
    is_good: Callable[[], bool],
    progress: bool,
) -> str | None:
    """Bring one file to `target`.

    Args:
        urls: tried in this order; each is resumed up to three times after a broken connection.
        target: final path. The bytes so far wait in `target` + ".part".
        size_bytes: exact size expected, or None.
        sha256: digest expected, or None when it is not known; such a file is never resumed, as
            nothing could tell that the two halves belong together.
        is_good: called once the lock is held; True means another process has put the file there.
        progress: draw a progress bar on standard error.

    Returns:
        The digest of the file now at `target`, or None if another process had fetched it.

    Raises:
        FetchError: no URL gave the file; every failure is in `reasons`.
        WeightsError: the disk has too little room, or the folder cannot be written.
    """
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Hidden, as it stays behind: removing a lock file would let a third process in.
        with FileLock(target.with_name(f".{target.name}.lock")):
            if is_good():
                return None
            _check_room(target, size_bytes)
            return _fetch_locked(urls, target, _Wanted(size_bytes, sha256), progress)
    except OSError as error:
        raise WeightsError(
            f"cannot write {target}: {error}. Free some space, make the folder writable, or set "
            "TEXTSAM_HOME to a folder that is."
        ) from error


def _fetch_locked(urls: tuple[str, ...], target: Path, wanted: _Wanted, progress: bool) -> str:
    import requests

    part = target.with_name(f"{target.name}.part")
    if wanted.sha256 is None or _is_whole_and_wrong(part, wanted):
        part.unlink(missing_ok=True)
    reasons: list[str] = []
    with requests.Session() as session, _bar(target.name, progress) as advance:
        for url in urls:
            digest = _try_url(session, with_endpoint(url), part, wanted, advance, reasons)
            if digest is not None:
                part.replace(target)
                return digest
    raise FetchError(reasons or ["no URL is known for this file"])


def _try_url(
    session: requests.Session,
    url: str,
    part: Path,
    wanted: _Wanted,
    advance: Advance,
    reasons: list[str],
) -> str | None:
    for attempt in range(1, _ATTEMPTS_PER_URL + 1):
        try:
            digest = _stream(session, url, part, wanted, advance)
        except _InterruptedError as error:
            reasons.append(f"{url}: attempt {attempt}: {error}")
            if wanted.sha256 is None:
                part.unlink(missing_ok=True)
            if attempt < _ATTEMPTS_PER_URL:
                time.sleep(_PAUSE_S)
            continue
        except _RefusedError as error:
            reasons.append(f"{url}: {error}")
            return None
        if wanted.sha256 is None or digest == wanted.sha256:
            return digest
        part.unlink()
        reasons.append(
            f"{url}: wrong checksum: sha256 {digest}, expected {wanted.sha256}; the bytes received "
            "were removed"
        )
        return None
    return None


def _stream(
    session: requests.Session, url: str, part: Path, wanted: _Wanted, advance: Advance
) -> str:
    """Append to `part` until it is whole; return its digest."""
    import requests

    digest, present = _digest_so_far(part, wanted.size_bytes)
    if wanted.size_bytes is not None and present == wanted.size_bytes:
        return digest.hexdigest()
    # Compressed transfer would make lengths and ranges count other bytes than the file's.
    headers = {"Accept-Encoding": "identity"}
    if present:
        headers["Range"] = f"bytes={present}-"
    try:
        response = session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S)
    except (requests.RequestException, ValueError) as error:  # the latter of a redirect's host
        raise _RefusedError(_short(error)) from error
    except OSError as error:  # of no connection, but of certificates that are not there
        raise _RefusedError(
            f"{error}; correct the environment variable REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE"
        ) from error
    with response:
        if response.status_code == 416 and present:
            part.unlink()
            raise _InterruptedError("the server cannot continue the part; starting afresh")
        if response.status_code not in (200, 206):
            raise _RefusedError(f"HTTP {response.status_code} {response.reason}".rstrip())
        if response.status_code == 200 and present:
            digest, present = hashlib.sha256(), 0
        total = _announced_total(response, present)
        _refuse_other_file(response, total, wanted)
        with part.open("ab" if present else "wb") as stream:
            for block in _blocks(response):
                stream.write(block)
                digest.update(block)
                present += len(block)
                advance(present, total or wanted.size_bytes)
                if wanted.size_bytes is not None and present > wanted.size_bytes:
                    break
    expected = wanted.size_bytes if wanted.size_bytes is not None else total
    if expected is not None and present < expected:
        raise _InterruptedError(f"the connection ended at byte {present} of {expected}")
    if expected is not None and present > expected:
        part.unlink()
        raise _RefusedError(f"more than the expected {expected} bytes came")
    if not present:  # of a file whose size nobody knows, it would be trusted from now on
        part.unlink()
        raise _RefusedError("the server answered with an empty file")
    return digest.hexdigest()


def _blocks(response: requests.Response) -> Iterator[bytes]:
    import requests

    try:
        yield from response.iter_content(_BLOCK_BYTES)
    except (requests.RequestException, ConnectionError, TimeoutError) as error:
        raise _InterruptedError(_short(error)) from error


def _is_whole_and_wrong(part: Path, wanted: _Wanted) -> bool:
    """Whether a part has all bytes but not the right ones, which no server is to be blamed for."""
    if not part.is_file() or part.stat().st_size != wanted.size_bytes:
        return False
    return sha256_of(part) != wanted.sha256


def _digest_so_far(part: Path, size_bytes: int | None) -> tuple[hashlib._Hash, int]:
    digest = hashlib.sha256()
    if not part.is_file():
        return digest, 0
    present = part.stat().st_size
    if size_bytes is not None and present > size_bytes:
        part.unlink()
        return digest, 0
    with part.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest, present


def _announced_total(response: requests.Response, present: int) -> int | None:
    """Size of the whole file according to the server; refuses a range we did not ask for."""
    if response.status_code == 206:
        content_range = response.headers.get("Content-Range", "")
        unit, _, rest = content_range.partition(" ")
        span, _, total = rest.partition("/")
        if unit != "bytes" or not span.startswith(f"{present}-"):
            raise _RefusedError(f"asked to continue at byte {present}, got {content_range!r}")
        return int(total) if total.isdigit() else None
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None  # the length is of what was packed, though we asked for it as it is
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _refuse_other_file(response: requests.Response, total: int | None, wanted: _Wanted) -> None:
    # A login page or a mirror's error page arrives with status 200: see it before writing it.
    if total is not None and wanted.size_bytes is not None and total != wanted.size_bytes:
        raise _RefusedError(f"the server offers {total} bytes, expected {wanted.size_bytes}")
    content_type = response.headers.get("Content-Type", "")
    if content_type.lower().startswith("text/html"):
        raise _RefusedError("the server answered with a web page, not with the file")


def _check_room(target: Path, size_bytes: int | None) -> None:
    if size_bytes is None:
        return
    part = target.with_name(f"{target.name}.part")
    present = part.stat().st_size if part.is_file() else 0
    needed = max(0, size_bytes - present) + _SPARE_BYTES
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise WeightsError(
            f"not enough room for {target.name}: {needed / 1e6:.0f} MB are needed in "
            f"{target.parent}, {free / 1e6:.0f} MB are free. Free some space or set TEXTSAM_HOME "
            "to a folder on another disk."
        )


def _short(error: Exception) -> str:
    """The innermost cause in one line: requests wraps it in layers of object addresses."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return f"{type(error).__name__}: {cause}"


@contextmanager
def _bar(label: str, enabled: bool) -> Iterator[Advance]:
    """Yield a function that moves a progress bar, which appears with the first bytes."""
    if not enabled:
        yield lambda _present, _total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task(label, total=None)

    def advance(present: int, total: int | None) -> None:
        bar.start()
        bar.update(task, completed=present, total=total)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
