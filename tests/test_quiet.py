"""Warnings of libraries are kept from the caller, and the caller's filters stay as they were."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest

from textsam.io.dicom.guard import damage_reported
from textsam.metrics import hd95, nsd, nsd_slab
from textsam.quiet import quiet


def test_only_what_is_named_is_silent() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet({"message": "of no use"}):
            warnings.warn("of no use", UserWarning, stacklevel=1)
            warnings.warn("of use", UserWarning, stacklevel=1)
    assert [str(w.message) for w in seen] == ["of use"]


def test_filters_come_back_when_the_last_one_is_out() -> None:
    before = list(warnings.filters)
    first, second = quiet({"message": "a"}), quiet({"message": "b"})
    with first:
        second.__enter__()
    assert warnings.filters != before, "the second is still inside"
    second.__exit__(None, None, None)
    assert warnings.filters == before
    with pytest.raises(KeyError), quiet({"message": "a"}):
        raise KeyError
    assert warnings.filters == before


def test_threads_that_measure_and_read_leave_no_filters_behind() -> None:
    mask = np.zeros((24, 24), bool)
    mask[4:15, 6:18] = True
    hd95(mask, mask)  # what is imported first sets filters of its own
    nsd(mask, mask, tolerance_px=3)
    nsd_slab(mask, mask, tolerance_px=3)
    before = list(warnings.filters)
    start = threading.Barrier(6)

    def work(number: int) -> None:
        start.wait()
        for _ in range(8):
            if number % 2:
                hd95(mask, mask)
                nsd(mask, mask, tolerance_px=3)
            else:
                with damage_reported("a.dcm", "cannot be read"):
                    nsd_slab(mask, mask, tolerance_px=3)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
