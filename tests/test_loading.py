"""Images that processes of their own load: what is told when such a process ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import begin, run_config, write_data

from textsam.errors import OutputError, TextSAMError
from textsam.io.atomic import told_as_output
from textsam.train import run as run_module
from textsam.train.loading import readers_told
from textsam.train.run import fit

KILLED = "DataLoader worker (pid 7) is killed by signal: Killed. "


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows kills otherwise")
def test_a_reader_that_is_killed_is_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(write_data(tmp_path), workers=1, epochs=100, val_every=1000, save_every=1)
    written: Any = run_module.write_state

    def kill(*given: Any) -> None:
        """Write the state, and kill the process that loads images the second time."""
        written(*given)
        if given[1].step == 2:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
                child.join()

    monkeypatch.setattr(run_module, "write_state", kill)
    with pytest.raises(TextSAMError, match=r"loads training images has ended.*workers, now 1") as e:
        fit(begin(config), progress=False)
    assert not isinstance(e.value, OutputError), "no file was at fault"
    monkeypatch.undo()
    run = begin(config)
    assert run.state.step == 2
    fit(run, stop_after=3, progress=False)


def test_what_a_reader_has_broken_off_is_not_blamed_on_a_file(tmp_path: Path) -> None:
    with (
        pytest.raises(TextSAMError, match=r"images has ended, .* \(DataLoader worker \(pid 7\)"),
        readers_told(2),
        told_as_output(tmp_path / "state.pt", RuntimeError),
    ):
        raise RuntimeError(KILLED)


@pytest.mark.parametrize(
    ("workers", "error"),
    [
        (0, RuntimeError(KILLED)),
        (2, RuntimeError("mat1 and mat2 shapes cannot be multiplied")),
        (2, RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nTraceback")),
        (2, EOFError("Caught EOFError in DataLoader worker process 0.\nTraceback")),
        (2, OutputError("state.pt: cannot be written")),
        (2, KeyboardInterrupt()),
    ],
)
def test_other_errors_pass(workers: int, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, readers_told(workers):
        raise error
    assert caught.value is error
