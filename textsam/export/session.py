"""Open an ONNX file with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textsam.errors import ConfigError, TextSAMError, WeightsError

__all__ = ["check_name", "open_session"]


def check_name(path: Path) -> None:
    """Refuse a path that ONNX and ONNX Runtime, which take UTF-8 alone, cannot be given.

    Raises:
        ConfigError: a name in it is no UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{str(path)!r} has a name that is no UTF-8, which ONNX Runtime cannot open; give a "
            "folder of another name"
        ) from error


def open_session(
    path: str | Path,
    *,
    threads: int | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> Any:
    """An `onnxruntime.InferenceSession` on a file.

    Args:
        path: the ONNX file.
        threads: that compute one graph together; None lets ONNX Runtime choose.
        providers: of ONNX Runtime, in order of preference.

    Raises:
        TextSAMError: onnxruntime is not installed.
        ConfigError: a number of threads under 1, a provider this onnxruntime does not have, or a
            name that is no UTF-8.
        WeightsError: the file is missing or is not an ONNX graph that can be run.
    """
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise TextSAMError(
            "running ONNX files needs onnxruntime, which is not installed: pip install "
            '"textsam[export]", or pip install onnxruntime'
        ) from error
    check_name(Path(path))
    options = onnxruntime.SessionOptions()
    if threads is not None:
        if not (isinstance(threads, int) and threads >= 1):
            raise ConfigError(f"threads is {threads!r}; give 1 or more, a whole number")
        options.intra_op_num_threads = threads
    if isinstance(providers, str):
        raise ConfigError(f"providers is {providers!r}; give a list, [{providers!r}]")
    here = onnxruntime.get_available_providers()
    if missing := [name for name in providers if name not in here]:
        raise ConfigError(
            f"this onnxruntime has no {missing[0]!r}; it has {', '.join(here)}. Install the "
            "package of onnxruntime for your device, or leave providers out"
        )
    refused = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except refused as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"{path} is not an ONNX graph that this onnxruntime can run ({reason}); export the "
            "model again, or update onnxruntime"
        ) from error
