"""A real archive for tests: Orthanc with its DICOMweb plugin, on loopback, for one test run."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import requests
from pydicom import Dataset, dcmread

PROGRAM = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
MISSING = (
    ""
    if PROGRAM and PLUGIN.exists()
    else "Orthanc and its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb) are not installed"
)
USER, PASSWORD = "textsam", "only-for-tests"


class Orthanc:
    """A running archive.

    Attributes:
        url: root of its DICOMweb service.
        auth: what its own interface wants, None for nothing.
        folder: of the test, which it writes into as well.
    """

    def __init__(self, port: int, auth: tuple[str, str] | None, folder: Path) -> None:
        self.folder = folder
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/dicom-web"
        self.auth = auth

    def add(self, *files: Path | bytes | Dataset) -> None:
        """Put DICOM files into the archive by its own interface, not by the code under test."""
        for file in files:
            done = requests.post(
                f"{self.root}/instances", data=_bytes(file), auth=self.auth, timeout=120
            )
            done.raise_for_status()

    def clear(self) -> None:
        """Remove everything it holds."""
        for key in requests.get(f"{self.root}/patients", auth=self.auth, timeout=120).json():
            requests.delete(f"{self.root}/patients/{key}", auth=self.auth, timeout=120)

    def instances(self, modality: str | None = None) -> list[Dataset]:
        """Everything it holds, read back by its own interface."""
        found = []
        for key in requests.get(f"{self.root}/instances", auth=self.auth, timeout=120).json():
            file = requests.get(f"{self.root}/instances/{key}/file", auth=self.auth, timeout=120)
            found.append(dcmread(BytesIO(file.content)))
        return [d for d in found if modality is None or d.Modality == modality]


@contextmanager
def running_orthanc(folder: Path, *, login: bool = False) -> Iterator[Orthanc]:
    """Start Orthanc with its storage in `folder`; it is stopped at the end."""
    port = _free_port()
    settings = {
        "Name": "textsam tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": login,
        "RegisteredUsers": {USER: PASSWORD} if login else {},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(settings), encoding="utf-8")
    archive = Orthanc(port, (USER, PASSWORD) if login else None, folder)
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([str(PROGRAM), str(configuration)], stdout=log, stderr=log)
        try:
            _wait(archive, process)
            yield archive
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(archive: Orthanc, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(f"Orthanc ended with {process.returncode}")
        try:
            if requests.get(f"{archive.root}/system", auth=archive.auth, timeout=30).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise RuntimeError("Orthanc did not answer in time")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _bytes(file: Path | bytes | Dataset) -> bytes:
    if isinstance(file, Path):
        return file.read_bytes()
    if isinstance(file, bytes):
        return file
    target = BytesIO()
    file.save_as(target, enforce_file_format=True)
    return target.getvalue()
