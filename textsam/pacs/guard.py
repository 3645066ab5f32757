"""Failures of the network, the server and its answers, as `PacsError` with a remedy."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from time import sleep
from typing import TypeVar

import requests
from requests.exceptions import ChunkedEncodingError
from urllib3.exceptions import ReadTimeoutError

from textsam.errors import PacsError, TextSAMError
from textsam.pacs.address import PASSWORD, TOKEN, USER
from textsam.pacs.session import GuardedSession

__all__ = ["PassingError", "ask", "ask_again"]

T = TypeVar("T")

# Not now, but perhaps in a moment.
_PASSING = frozenset({408, 429, 502, 503, 504})
_LONGEST_WAIT_S = 60.0
_REMEDIES = {
    400: "the server does not understand the request; check that it speaks DICOMweb (QIDO-RS, "
    "WADO-RS and STOW-RS)",
    403: "these credentials are not allowed to do that; ask whoever runs the archive",
    404: "check the address of the service, and the study and series",
    409: "the server took none of the objects; look into its log for their UIDs",
    413: "the object is larger than the server allows; raise its limit",
    415: "the server takes no such objects; it must allow Segmentation Storage",
    429: "the server asks for fewer requests; try again later",
}


class PassingError(PacsError):
    """A failure that may be over in a moment: no connection, no answer in time, server busy.

    Attributes:
        wait_s: how long the server asks to be left alone, in seconds; 0 where it does not say.
    """

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def ask(session: GuardedSession, call: Callable[[], T], what: str) -> T:
    """Run `call`, and turn what goes wrong into a `PacsError`; no answer holds a connection then.

    Args:
        session: with the archive, which messages name.
        call: talks to the archive, or reads what it sent.
        what: the thing asked for, named in messages; no data of patients.

    Raises:
        PacsError: with the host, the status and a remedy, and nothing of the body.
    """
    label = session.address.label
    try:
        return call()
    except TextSAMError:
        raise
    except requests.HTTPError as error:
        code = 0 if error.response is None else error.response.status_code
        message = f"{label}: {what}: HTTP {code}{_phrase(code)}; {_remedy(code, session.has_login)}"
        if code in _PASSING:
            raise PassingError(message, _wait_s(error.response)) from error
        raise PacsError(message) from error
    except requests.exceptions.SSLError as error:
        raise PacsError(
            f"{label}: the server's certificate is not trusted, or it does not speak TLS; give the "
            "file of certificates it is signed with as --ca (ca=…)"
        ) from error
    except (requests.Timeout, requests.ConnectionError, ChunkedEncodingError) as error:
        # requests calls a pause in the middle of an answer a broken connection.
        paused = bool(error.args) and isinstance(error.args[0], ReadTimeoutError)
        if paused or isinstance(error, requests.Timeout):
            raise PassingError(
                f"{label}: {what}: no answer in time; see whether the archive is up, or wait "
                "longer with --timeout-s (timeout_s=…)"
            ) from error
        raise PassingError(
            f"{label}: {what}: no connection, or it broke off; check the address and that the "
            "archive is up"
        ) from error
    except Exception as error:  # parsers fail on foreign data in many ways
        # Only the kind of the error: its text may repeat what the server sent.
        raise PacsError(
            f"{label}: {what}: the answer is not DICOMweb ({type(error).__name__}); check that the "
            "address is the root of a DICOMweb service"
        ) from error
    finally:
        session.release()


def ask_again(session: GuardedSession, call: Callable[[], T], what: str, *, retries: int) -> T:
    """`ask`, and after a `PassingError` again up to `retries` times.

    Pauses grow, and are at least as long as the server asks for, up to a minute.
    """
    for attempt in range(retries):
        try:
            return ask(session, call, what)
        except PassingError as error:
            sleep(max(0.5 * 2**attempt, min(error.wait_s, _LONGEST_WAIT_S)))
    return ask(session, call, what)


def _wait_s(response: requests.Response | None) -> float:
    """Seconds in Retry-After (RFC 9110 10.2.3); 0 for none, or for a date."""
    told = "" if response is None else response.headers.get("Retry-After", "").strip()
    return float(told) if told.isascii() and told.isdecimal() else 0.0


def _phrase(code: int) -> str:
    try:
        return f" {HTTPStatus(code).phrase}"
    except ValueError:
        return ""


def _remedy(code: int, login: bool) -> str:
    if code == 401:
        named = f"{TOKEN}, or {USER} and {PASSWORD}"
        if login:
            return f"the credentials in the environment are refused; check {named}"
        return f"the server wants credentials; set {named} in the environment"
    if code >= 500:
        return _REMEDIES.get(code, "the server failed; look into its log, or try again later")
    return _REMEDIES.get(code, "check the address and what the archive's log says")
