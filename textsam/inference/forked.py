"""Processes forked from the one in which a model was made."""

from __future__ import annotations

import os

import torch

__all__ = ["Home"]


class Home:
    """The process in which a model was made."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def check(self) -> None:
        """In a process forked from it, let torch compute with one thread.

        Further threads do not survive a fork. PyTorch's OpenMP (libgomp) waits for them all the
        same, without end: https://gcc.gnu.org/legacy-ml/gcc-patches/2014-02/msg00813.html
        """
        if os.getpid() != self._process and torch.get_num_threads() > 1:
            torch.set_num_threads(1)
