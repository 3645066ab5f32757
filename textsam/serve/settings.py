"""What a server allows and where it listens; checked before anything is loaded."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from textsam.errors import ConfigError
from textsam.io.limits import Limits

__all__ = ["MIN_TOKEN_CHARS", "ServeSettings", "is_loopback", "read_token", "server_limits"]

MIN_TOKEN_CHARS = 16
MAX_PROMPTS = 16

DEFAULT_MAX_PIXELS = 25_000_000
"""A digital mammogram of 4,000 x 6,000 px fits."""

_MIB = 1024**2
_TOKEN_VARIABLE = "TEXTSAM_TOKEN"


def server_limits(max_body_bytes: int, max_pixels: int | None = None) -> Limits:
    """The limits of one upload: far below those of local files, as anyone who asks may send one."""
    return Limits(
        max_bytes=max_body_bytes,
        max_pixels=DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels,
        max_images=5_000,
        max_inflated_bytes=512 * _MIB,
    )


@dataclass(frozen=True)
class ServeSettings:
    """How a server behaves.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        token: what clients have to send as a bearer token; None asks for none.
        queue: requests that may wait while the model is busy; further ones are refused.
        timeout_s: seconds from the first byte of a request to its answer.
        max_body_bytes: largest request body.
        limits: of the image in the body.
        max_prompts: most prompts of one request.

    Raises:
        ConfigError: a value that makes no sense, or a token that is easy to guess.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = field(default=None, repr=False)
    queue: int = 16
    timeout_s: float = 60.0
    max_body_bytes: int = 64 * _MIB
    limits: Limits = field(default_factory=lambda: server_limits(64 * _MIB))
    max_prompts: int = MAX_PROMPTS

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; give 1 to 65535, or 0 for a free one")
        for name in ("queue", "max_body_bytes", "max_prompts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least 1")
        if not 0 < self.timeout_s < float("inf"):
            raise ConfigError(f"timeout_s is {self.timeout_s}; give a positive number of seconds")
        if self.token is not None:
            _check_token(self.token)


def _check_token(token: str) -> None:
    if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"the token has {len(token)} characters; use at least {MIN_TOKEN_CHARS} printable "
            "ASCII characters, e.g. from `openssl rand -hex 32`"
        )
    if any(character.isspace() for character in token):
        raise ConfigError("the token contains a blank; use letters and digits")


def read_token(path: Path | None) -> str | None:
    """The token of a file (its first line), else of TEXTSAM_TOKEN, else None.

    Raises:
        ConfigError: a file that cannot be read or is empty, or a variable that is set and empty.
    """
    if path is None:
        token = os.environ.get(_TOKEN_VARIABLE)
        where = f"the environment variable {_TOKEN_VARIABLE}"
    else:
        where = f"the token file {path}"
        try:
            # Windows puts a mark before the text of some files.
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where} cannot be read ({error}); check it") from error
        token = lines[0] if lines else ""
    if token is None:
        return None
    if not token.strip():
        raise ConfigError(f"{where} is empty; write a token there, or leave it out")
    return token.strip()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`.

    A name other than "localhost" counts as reachable: what it resolves to can change.
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
