"""`PacsClient`: the questions that are put to an archive over DICOMweb (DICOM PS3.18)."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import requests

from textsam.errors import ConfigError, PacsError
from textsam.io.atomic import told_as_output
from textsam.io.limits import Limits
from textsam.pacs.address import Address, Credentials, credentials, parse_address
from textsam.pacs.answers import (
    UID_PATTERN,
    InstanceEntry,
    SeriesEntry,
    failures,
    instance_entry,
    referenced_series,
    series_entry,
    warnings_of,
)
from textsam.pacs.guard import ask, ask_again
from textsam.pacs.parts import file_in, uid_in
from textsam.pacs.session import MAX_ANSWER_BYTES, GuardedSession
from textsam.quiet import quiet

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from pydicom import Dataset

__all__ = ["PacsClient", "check_uid", "connect"]

T = TypeVar("T")
Entry = TypeVar("Entry", SeriesEntry, InstanceEntry)

# The most that the pickiest archives take; others are not asked for more, as it is no faster.
_PAGE = 200
# Limits are on the images of a series, not on how many series a study has, old answers included.
_MOST_ENTRIES = 20_000
_CONNECT_S = 10.0
_MULTIPART_BYTES = 64 * 1024
_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
# Segmentations are small next to their images; a body in one piece, with a Content-Length, is taken
# by every server, a chunked one is not.
_ONE_PIECE_BYTES = 2**31


def check_uid(uid: str, what: str) -> str:
    """`uid` itself, where it has the form of a DICOM UID and so cannot change a URL's path.

    Raises:
        PacsError: anything but digits and dots, or more than 64 of them.
    """
    if not UID_PATTERN.fullmatch(uid):
        raise PacsError(f"the {what} {uid!r} is not a DICOM UID; give digits and dots, at most 64")
    return uid


def connect(
    url: str,
    *,
    login: Credentials | None = None,
    ca: str | Path | None = None,
    timeout_s: float = 60.0,
    retries: int = 2,
    allow_http: bool = False,
    limits: Limits | None = None,
) -> PacsClient:
    """A client for the DICOMweb service at `url`; nothing is sent yet.

    Args:
        url: root of the service, such as "https://pacs.example/dicom-web".
        login: None reads the environment, see `textsam.pacs.address.credentials`.
        ca: file of certificates (PEM) to trust instead of the usual ones.
        timeout_s: longest wait for the next bytes of an answer, in seconds.
        retries: how often a question is put again when the network or the server fails; objects
            are never sent twice.
        allow_http: let images cross a network unencrypted.
        limits: None takes the defaults.

    Raises:
        ConfigError: an address, a file or a number that cannot be used, or credentials that
            contradict each other.
        PacsError: dicomweb-client is not installed.
    """
    address = parse_address(url, allow_http=allow_http)
    if not 0 < timeout_s < 86_400:
        raise ConfigError(f"timeout_s is {timeout_s!r}; give seconds above 0 and below 86400")
    if retries < 0:
        raise ConfigError(f"retries is {retries}; give 0 or more")
    if ca is not None:
        _check_certificates(Path(ca))
    try:
        from dicomweb_client import DICOMwebClient
    except ImportError as error:
        raise PacsError(
            "talking to an archive needs dicomweb-client and pydicom; install them: "
            'pip install "textsam[medical]"'
        ) from error
    session = GuardedSession(
        address,
        credentials() if login is None else login,
        ca=None if ca is None else str(ca),
    )
    timeouts_s = (min(_CONNECT_S, timeout_s), timeout_s)
    web = DICOMwebClient(
        address.url,
        session=session,
        timeout=timeouts_s,
        permissive_uid=True,
        chunk_size=_ONE_PIECE_BYTES,
    )
    # It would repeat store requests as well; `PacsClient` repeats questions only.
    web.set_http_retry_params(retry=False)
    return PacsClient(
        web, session, timeout_s=timeouts_s, retries=retries, limits=limits or Limits()
    )


def _check_certificates(ca: Path) -> None:
    if not ca.is_file():
        raise ConfigError(f"the certificate file {ca} does not exist; give a PEM file")
    try:
        # Here, as a connection would call the server's certificate the bad one.
        ssl.create_default_context(cafile=str(ca))
    except OSError as error:
        raise ConfigError(
            f"the certificate file {ca} holds no certificates in PEM, which begin with '-----BEGIN "
            f"CERTIFICATE-----' ({error.strerror or error}); one in DER is converted by `openssl "
            "x509 -inform der -in FILE -out FILE.pem`"
        ) from error


class PacsClient:
    """QIDO-RS, WADO-RS and STOW-RS against one archive; made by `connect`.

    Every method raises `PacsError` for an archive that cannot be reached, refuses, or answers
    something that is not DICOMweb. Messages hold the host, the HTTP status and UIDs, and nothing
    else of what the archive sent.

    Args:
        web: dicomweb-client's client, without retries of its own.
        session: the one `web` was made with.
        timeout_s: longest wait for a connection, and for the next bytes of an answer, in seconds.
        retries: how often a question is put again.
        limits: on what is downloaded.
    """

    def __init__(
        self,
        web: DICOMwebClient,
        session: GuardedSession,
        *,
        timeout_s: tuple[float, float],
        retries: int,
        limits: Limits,
    ) -> None:
        self._web = web
        self._session = session
        self._timeout_s = timeout_s
        self._retries = retries
        self.limits = limits

    @property
    def address(self) -> Address:
        """Where the archive is."""
        return self._session.address

    def close(self) -> None:
        """Close its connections; the next question opens one again."""
        self._session.close()

    def __enter__(self) -> PacsClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def series(self, study_uid: str) -> list[SeriesEntry]:
        """The series of a study (QIDO-RS); an unknown study has none."""
        check_uid(study_uid, "study")
        return self._search(
            lambda offset: self._web.search_for_series(study_uid, limit=_PAGE, offset=offset),
            series_entry,
            f"series of study {study_uid}",
            _MOST_ENTRIES,
        )

    def instances(self, study_uid: str, series_uid: str) -> list[InstanceEntry]:
        """The instances of a series (QIDO-RS), at most `limits.max_images`."""
        check_uid(study_uid, "study")
        check_uid(series_uid, "series")
        return self._search(
            lambda offset: self._web.search_for_instances(
                study_uid, series_uid, limit=_PAGE, offset=offset
            ),
            instance_entry,
            f"instances of series {series_uid}",
        )

    def find(self, study_uid: str, series_uid: str) -> list[InstanceEntry]:
        """The instances of a series that need not exist (QIDO-RS): [] where there is none."""
        check_uid(study_uid, "study")
        check_uid(series_uid, "series")
        entries = self._search(
            lambda offset: self._web.search_for_instances(
                study_uid,
                search_filters={"SeriesInstanceUID": series_uid},
                limit=_PAGE,
                offset=offset,
            ),
            instance_entry,
            f"instances of series {series_uid}",
            max(self.limits.max_images, _MOST_ENTRIES),
        )
        # A server that does not know the filter lists the whole study.
        return [entry for entry in entries if entry.series_uid == series_uid]

    def referenced_series(
        self, study_uid: str, series_uid: str, sop_instance_uid: str
    ) -> frozenset[str]:
        """UIDs of the series an instance refers to, by its metadata (WADO-RS)."""
        what = f"metadata of instance {sop_instance_uid}"

        def fetch() -> dict[str, Any]:
            # A segmentation has about a kilobyte for each prompt and image.
            with self._session.at_most(max(self.limits.max_inflated_bytes, MAX_ANSWER_BYTES)):
                return self._web.retrieve_instance_metadata(study_uid, series_uid, sop_instance_uid)

        return ask(self._session, partial(referenced_series, self._ask(fetch, what)), what)

    def download(
        self, study_uid: str, series_uid: str, sop_instance_uid: str, path: Path, room_bytes: int
    ) -> int:
        """Fetch an instance as it is stored (WADO-RS) into a file; returns its size in bytes.

        Args:
            study_uid: of its study.
            series_uid: of its series.
            sop_instance_uid: its own.
            path: file to write.
            room_bytes: the most it may have; `limits.max_inflated_bytes` counts as well, since an
                instance is held in memory while it is fetched.

        Raises:
            PacsError: as all methods.
            OutputError: the file cannot be written.
        """
        check_uid(study_uid, "study")
        check_uid(series_uid, "series")
        check_uid(sop_instance_uid, "instance")
        limit_bytes = min(room_bytes, self.limits.max_inflated_bytes) + _MULTIPART_BYTES
        what = f"instance {sop_instance_uid}"

        def fetch() -> memoryview:
            # Not by dicomweb-client, which parses what it fetches: pydicom would inflate a deflated
            # file whole. Whoever opens the file does that within the limits.
            with self._session.at_most(limit_bytes):
                response = self._session.get(
                    f"{self.address.url}/studies/{study_uid}/series/{series_uid}"
                    f"/instances/{sop_instance_uid}",
                    headers={"Accept": _AS_STORED},
                    timeout=self._timeout_s,
                )
                response.raise_for_status()
                return file_in(response)

        def checked() -> memoryview:
            with quiet({}):  # of odd headers, which whoever opens it judges
                # One that does not say what it is can be told when it is opened.
                if uid_in(file) not in (sop_instance_uid, ""):
                    raise ValueError("another instance than the one asked for")
            return file

        file = self._ask(fetch, what)
        ask(self._session, checked, what)
        with told_as_output(path):
            path.write_bytes(file)
        return len(file)

    def store(self, dataset: Dataset, study_uid: str) -> str:
        """Send one object to the archive (STOW-RS), once.

        Returns:
            Reason code of a warning, such as "B000" (elements were changed), "" for none.

        Raises:
            PacsError: as all methods, and where the archive lists the object as failed.
        """
        check_uid(study_uid, "study")
        what = f"storing {dataset.SOPInstanceUID}"
        if not getattr(dataset, "preamble", None):
            dataset.preamble = bytes(128)

        def send() -> Dataset:
            try:
                return self._web.store_instances([dataset], study_instance_uid=study_uid)
            except requests.HTTPError as error:
                return _why_refused(error)

        answer = ask(self._session, send, what)
        if failed := ask(self._session, partial(failures, answer), what):
            raise PacsError(
                f"{self.address.label}: {what} failed, reason {', '.join(failed)}; look into the "
                "archive's log for this UID"
            )
        return ", ".join(ask(self._session, partial(warnings_of, answer), what))

    def _ask(self, call: Callable[[], T], what: str) -> T:
        return ask_again(self._session, call, what, retries=self._retries)

    def _search(
        self,
        page: Callable[[int | None], list[dict[str, Any]]],
        entry: Callable[[dict[str, Any]], Entry],
        what: str,
        most: int | None = None,
    ) -> list[Entry]:
        """All pages of a list; a server that goes on and on does not keep us for ever.

        Args:
            page: asks for what follows on so many entries, None for the first.
            entry: reads a match.
            what: the list, named in messages.
            most: entries; None for `limits.max_images`.
        """
        limit = self.limits.max_images if most is None else most
        # By UID: the same match can come twice, with other words about it, as where the list grows
        # while it is read.
        found: dict[str, Entry] = {}
        while True:
            answer = self._ask(partial(page, len(found) or None), what)
            read = [ask(self._session, partial(entry, item), what) for item in answer]
            # A page may be shorter than asked for, so only one without news is the last.
            fresh = {one.uid: one for one in read if one.uid not in found}
            if not fresh:
                return list(found.values())
            found |= fresh
            if len(found) > limit:
                remedy = (
                    "raise --max-images (max_images of Limits)"
                    if most is None
                    else "look whether the archive lists what it has"
                )
                raise PacsError(
                    f"{self.address.label}: {what}: more than {limit:,} entries, the limit; "
                    f"{remedy}"
                )


def _why_refused(error: requests.HTTPError) -> Dataset:
    """The reasons in the body of a 409, none was stored (PS3.18 10.5.3); else raise the error."""
    from pydicom import Dataset

    if error.response is not None and error.response.status_code == 409:
        try:
            answer = Dataset.from_json(error.response.json())
        except Exception:  # noqa: BLE001  # without a readable body, the status has to do
            raise error from None
        if "FailedSOPSequence" in answer:
            return answer
    raise error
