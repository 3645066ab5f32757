"""The DICOM file in an archive's answer, as bytes: nothing is decoded that might unfold."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from io import BytesIO

import requests

from textsam.io.dicom.meta import AFTER_PREFIX, read_meta

__all__ = ["file_in", "uid_in"]

# File meta information is a few hundred bytes long.
_META_BYTES = 1024**2
_END_OF_HEAD = b"\r\n\r\n"


def file_in(response: requests.Response) -> memoryview:
    """The one file that an archive sends for an instance (PS3.18 10.4.1.1.1, RFC 2046 5.1).

    Raises:
        ValueError: another media type, or another number of files.
        requests.RequestException: the body cannot be read to its end, or ends before its parts do.
    """
    kind = Message()
    kind["Content-Type"] = response.headers.get("Content-Type", "text/plain")
    boundary = kind.get_boundary()
    # Some archives send the file as it is, or as what the type calls parts though it is none.
    single = kind.get_content_type() == "multipart/related" and boundary is None
    if single or kind.get_content_type() == "application/dicom":
        return memoryview(response.content)
    if kind.get_content_type() != "multipart/related" or boundary is None:
        raise ValueError("neither a DICOM file nor parts")
    parts = list(_parts(response.content, b"--" + boundary.encode("latin-1")))
    if len(parts) != 1:
        raise ValueError("not one file")
    return parts[0]


def _parts(body: bytes, edge: bytes) -> Iterator[memoryview]:
    """What lies between the edges, without the heads of the parts and without copies."""
    whole, delimiter = memoryview(body), b"\r\n" + edge
    at = 0 if body.startswith(edge) else body.find(delimiter)
    if at < 0:
        return
    while True:
        at = body.index(edge, at) + len(edge)
        if body.startswith(b"--", at):
            return
        head = body.find(_END_OF_HEAD, at)
        start = head + len(_END_OF_HEAD)
        # The head of a part may be empty, and so may the part: the search begins before both.
        at = -1 if head < 0 else body.find(delimiter, start - 2)
        if at < 0:
            # A body whose length nobody announced ends with the connection, also where that broke.
            raise requests.exceptions.ChunkedEncodingError("no closing delimiter")
        yield whole[start:at]


def uid_in(file: memoryview) -> str:
    """The SOP Instance UID that a file says it holds, by its file meta information; "" for none.

    Raises:
        ValueError: no DICOM file. Parsers may raise anything else on a damaged one.
    """
    if bytes(file[AFTER_PREFIX - 4 : AFTER_PREFIX]) != b"DICM":
        raise ValueError("no DICOM file")
    meta = read_meta(BytesIO(file[AFTER_PREFIX : AFTER_PREFIX + _META_BYTES]))
    return str(meta.get("MediaStorageSOPInstanceUID", ""))
