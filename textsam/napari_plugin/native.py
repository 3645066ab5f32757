"""Keep two copies of LLVM in one process apart."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

__all__ = ["separate_triton"]


def separate_triton() -> Path | None:
    """Load triton's library so that it calls its own LLVM; before torch is imported.

    On Linux, PyTorch imports triton, whose library carries an LLVM of its own with visible names.
    Mesa's OpenGL drivers, which draw napari's canvas on machines without NVIDIA's, bring another
    LLVM. The one that is loaded first would serve both, and the process would end in a segmentation
    fault. (Seen with triton 3.9 and Mesa 22.3; tensorflow/tensorflow#124205 describes the same.)

    Returns:
        The library, or None where there is nothing to do: no triton, or it is loaded already.
    """
    mode = getattr(os, "RTLD_DEEPBIND", None)
    if mode is None or "triton" in sys.modules:
        return None
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return None
    library = Path(spec.origin).parent / "_C" / "libtriton.so"
    if not library.is_file():
        return None
    # Python's own import finds it loaded and adds nothing but its functions.
    ctypes.CDLL(str(library), mode=os.RTLD_NOW | mode)
    return library
