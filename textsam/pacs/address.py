"""Where an archive is, and what may be sent there."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from textsam.errors import ConfigError

__all__ = ["PASSWORD", "TOKEN", "USER", "Address", "Credentials", "credentials", "parse_address"]

TOKEN = "TEXTSAM_PACS_TOKEN"
"""Environment variable with a bearer token."""
USER = "TEXTSAM_PACS_USER"
"""Environment variable with a user name, for basic authentication."""
PASSWORD = "TEXTSAM_PACS_PASSWORD"
"""Environment variable with the password to TEXTSAM_PACS_USER."""

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """The root of a DICOMweb service, checked.

    Attributes:
        url: without a slash at its end, such as "https://pacs.example/dicom-web".
        scheme: "http" or "https".
        host: name or number of the machine, in lower case, IPv6 without brackets.
        port: its port, also where the URL does not name it.
    """

    url: str
    scheme: str
    host: str
    port: int

    @property
    def label(self) -> str:
        """host:port, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def same_origin(self, url: str) -> bool:
        """Whether `url` leads to the same scheme, host and port."""
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            return False
        return (parts.scheme, (parts.hostname or "").lower(), port) == (
            self.scheme,
            self.host,
            self.port,
        )


@dataclass(frozen=True)
class Credentials:
    """What the archive is told about who asks; never shown.

    Attributes:
        token: bearer token, "" for none.
        user: user name for basic authentication, "" for none.
        password: to `user`.
    """

    token: str = field(default="", repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.token or self.user)


def parse_address(url: str, *, allow_http: bool = False) -> Address:
    """Check the root URL of a DICOMweb service.

    Args:
        url: "https://host[:port]/path". "http://" is accepted for this machine alone (localhost,
            127.x.x.x, ::1), because images of patients and credentials would cross a network in
            the clear.
        allow_http: accept "http://" for other machines too: where something else encrypts, such as
            a tunnel.

    Raises:
        ConfigError: another scheme, no host, user name or password in the URL, a query or fragment,
            or plain HTTP to another machine without `allow_http`.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise ConfigError(
            "the DICOMweb address is not a URL; give one such as https://pacs.example/dicom-web"
        ) from error
    host = (parts.hostname or "").lower()
    if parts.username is not None or parts.password is not None:
        # The URL is not repeated: it holds a password.
        raise ConfigError(
            f"the DICOMweb address of {host} has a user name in it; set {USER} and {PASSWORD} (or "
            f"{TOKEN}) in the environment instead"
        )
    if parts.scheme not in _PORTS or not host or any(c.isspace() for c in url.strip()):
        raise ConfigError(
            f"the DICOMweb address {url!r} cannot be used; give one such as "
            "https://pacs.example/dicom-web"
        )
    if parts.query or parts.fragment:
        raise ConfigError(
            f"the DICOMweb address of {host} has a query or a fragment; give the root of the "
            "service, such as https://pacs.example/dicom-web"
        )
    if parts.scheme == "http" and not _is_this_machine(host) and not allow_http:
        raise ConfigError(
            f"the DICOMweb address of {host} is http://, which would send images of patients in "
            "the clear; use https://, or, where a tunnel or a separate network protects them, say "
            "so with --allow-http (allow_http=True)"
        )
    root = SplitResult(parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")
    return Address(root.geturl(), parts.scheme, host, port or _PORTS[parts.scheme])


def credentials(environ: Mapping[str, str] = os.environ) -> Credentials:
    """Credentials from the environment: TEXTSAM_PACS_TOKEN, or TEXTSAM_PACS_USER and _PASSWORD.

    They are taken from nowhere else: a command line can be read by others on the machine.

    Raises:
        ConfigError: both kinds, one half of the second, or a token that no header can hold.
    """
    token = environ.get(TOKEN, "").strip()
    user, password = environ.get(USER, ""), environ.get(PASSWORD, "")
    if token and (user or password):
        raise ConfigError(f"{TOKEN} and {USER}/{PASSWORD} are both set; unset one of them")
    if bool(user) != bool(password):
        missing = PASSWORD if user else USER
        raise ConfigError(f"{missing} is not set; basic authentication needs both {USER} and it")
    if ":" in user:
        raise ConfigError(f"{USER} contains a colon, which basic authentication has no way to send")
    # The value is not repeated, and must not reach a library that would.
    if not all("!" <= c <= "~" for c in token):
        raise ConfigError(f"{TOKEN} holds characters a header cannot carry; set the bare token")
    return Credentials(token, user, password)


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
