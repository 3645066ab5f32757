"""Keep the memory of one image for the next, where the system's allocator would hand it back."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# From malloc.h of the GNU C library.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Have this process keep the memory it frees, for the rest of its life.

    The GNU C library returns large blocks to the kernel as soon as they are free, and the kernel
    clears each page again when the next tensor asks for it: on a CPU that costs as much as a third
    of the time of an image. Kept, the memory of one image serves the next. The process then stays
    as large as its largest moment; it does not grow further with the number of images.

    The commands of `textsam` call this. It changes the whole process, so the library never does.

    Returns:
        Whether it had an effect: only the GNU C library on Linux has these settings.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
    accepted = [mallopt(name, value) == 1 for name, value in settings]
    return all(accepted)
