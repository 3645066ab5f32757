"""Processes forked from one in which a model was."""

from __future__ import annotations

import os
from functools import cache

import torch

__all__ = ["do_without_lost_threads"]


@cache
def _home() -> int:
    """The process that first had a model; those forked from it remember it."""
    return os.getpid()


def do_without_lost_threads() -> None:
    """In a process forked from one that had a model, let torch compute with one thread.

    Further threads do not survive a fork. PyTorch's OpenMP (libgomp) waits for them all the same,
    without end, also for a model that is loaded after the fork:
    https://gcc.gnu.org/legacy-ml/gcc-patches/2014-02/msg00813.html
    """
    if os.getpid() != _home() and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
