"""HTTP with the brakes on: one host, no redirects, no proxies, answers of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from textsam.errors import PacsError
from textsam.pacs.address import Address, Credentials

__all__ = ["MAX_ANSWER_BYTES", "GuardedSession"]

MAX_ANSWER_BYTES = 64 * 1024**2
"""Largest answer that is a list or a report, not an image."""


class GuardedSession(requests.Session):
    """A session for one DICOMweb service, given to dicomweb-client.

    - Requests leave for the address it was made for and nowhere else; a redirect is an error, since
      it would carry identifiers, images or credentials to a place nobody named.
    - The environment adds nothing: no proxy, no .netrc, no certificate bundle.
    - Bodies are read lazily and counted; one that grows beyond the limit in force is dropped.

    Args:
        address: of the service.
        credentials: none means that nothing is sent.
        ca: file of certificates to trust instead of the usual ones, None for these.
    """

    def __init__(self, address: Address, credentials: Credentials, *, ca: str | None) -> None:
        super().__init__()
        self.address = address
        self.has_login = bool(credentials)
        self.trust_env = False
        if ca is not None:
            self.verify = ca
        if credentials.token:
            self.auth = _Bearer(credentials.token)
        elif credentials.user:
            self.auth = HTTPBasicAuth(
                credentials.user.encode("utf-8"), credentials.password.encode("utf-8")
            )
        # For the answer to a store request; dicomweb-client says what it accepts in others.
        self.headers["Accept"] = "application/dicom+json"
        self.headers["Accept-Encoding"] = "identity"
        self._limit_bytes = MAX_ANSWER_BYTES
        self._unread: requests.Response | None = None

    @contextmanager
    def at_most(self, limit_bytes: int) -> Iterator[None]:
        """Within the block an answer may have this many bytes."""
        before = self._limit_bytes
        self._limit_bytes = limit_bytes
        try:
            yield
        finally:
            self._limit_bytes = before

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send as `requests` does, and hand over an answer whose body has not been read yet.

        Raises:
            PacsError: a request to another place, a redirect, or an answer that says it is larger
                than the limit.
        """
        if not self.address.same_origin(request.url or ""):
            raise PacsError(
                f"{self.address.label}: a request to another host was refused; only "
                f"{self.address.url} may be asked"
            )
        # dicomweb-client writes the host without its port; the connection knows better.
        request.headers.pop("Host", None)
        kwargs["stream"] = True
        response = super().send(request, **kwargs)
        if 300 <= response.status_code < 400:
            response.close()
            raise PacsError(
                f"{self.address.label}: HTTP {response.status_code}, the server redirects to "
                "another address, and redirects are not followed; give the address of the service "
                "itself"
            )
        try:
            declared = int(response.headers.get("Content-Length", "0"))
        except ValueError:
            declared = 0
        if declared > self._limit_bytes:
            response.close()
            raise _too_large(self.address, self._limit_bytes)
        if request.method == "POST":
            # dicomweb-client takes "application/dicom+json; charset=utf-8" for no report at all,
            # and why an object was not taken would be lost.
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            response.headers["Content-Type"] = kind
        response.raw = _Counted(response.raw, self._limit_bytes, self.address)
        self._unread = response
        return response

    def release(self) -> None:
        """Let go of the last answer, whether or not anybody has read it to its end."""
        if self._unread is not None:
            self._unread.close()
            self._unread = None

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
        """None: `requests` is to follow no redirect; `send` reports it."""
        return None


class _Bearer(AuthBase):
    """Adds the token as RFC 6750, section 2.1, says."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        r.headers["Authorization"] = f"Bearer {self._token}"
        return r


class _Counted:
    """The raw body of a response, which stops when too much has come out of it."""

    def __init__(self, raw: Any, limit_bytes: int, address: Address) -> None:
        self._raw = raw
        self._limit_bytes = limit_bytes
        self._address = address

    def stream(self, amt: int, decode_content: bool | None = None) -> Iterator[bytes]:
        """Chunks of the body, after decompression."""
        seen = 0
        for chunk in self._raw.stream(amt, decode_content=decode_content):
            seen += len(chunk)
            if seen > self._limit_bytes:
                self._raw.close()
                raise _too_large(self._address, self._limit_bytes)
            yield chunk

    def close(self) -> None:
        """Close the connection."""
        self._raw.close()

    def release_conn(self) -> None:
        """Give the connection back for the next request."""
        self._raw.release_conn()


def _too_large(address: Address, limit_bytes: int) -> PacsError:
    return PacsError(
        f"{address.label}: the server's answer has more than {limit_bytes:,} bytes, the limit for "
        "it; if an image is meant to be that large, raise --max-bytes and --max-inflated-bytes "
        "(max_bytes and max_inflated_bytes of Limits)"
    )
