"""The page's files, read once from the package."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["page_files"]

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_START = "index.html"


def page_files() -> dict[str, tuple[bytes, str]]:
    """Path in the address -> content and media type; the page itself is at "/"."""
    found: dict[str, tuple[bytes, str]] = {}
    for entry in files("textsam.serve").joinpath("page").iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if suffix in _TYPES:
            path = "/" if entry.name == _START else f"/page/{entry.name}"
            found[path] = (entry.read_bytes(), _TYPES[suffix])
    return found
