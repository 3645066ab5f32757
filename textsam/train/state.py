"""The state of a run on disk: enough to go on after a kill as if nothing had happened."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textsam.changes import changes_between
from textsam.errors import ConfigError
from textsam.io.atomic import atomic_path
from textsam.model.textsam import TextSAM
from textsam.model.tuning import load_trainable, trainable_state
from textsam.train.ingredients import Ingredients, differences

__all__ = ["RunState", "read_state", "write_state", "written_at"]

# Without `settings` and `made_of`, which states of earlier versions do not have.
_PARTS = frozenset({"step", "best", "fingerprint", "tensors", "optimiser"})


@dataclass
class RunState:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        best: lowest selection value so far (a loss, or minus a Dice), or None.
        fingerprint: of the configuration; a run is only resumed with the same.
        settings: of which the fingerprint is, to tell what differs.
        made_of: base weights, frame and data; a run is only resumed with the same.
    """

    step: int
    best: float | None
    fingerprint: str
    settings: Mapping[str, Any]
    made_of: Ingredients


def written_at(path: Path) -> int | None:
    """When a state was written, in nanoseconds since 1970; None where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else None


def write_state(
    path: Path, state: RunState, model: TextSAM, optimiser: torch.optim.Optimizer
) -> None:
    """Write the run's state atomically."""
    content = {
        "step": state.step,
        "best": state.best,
        "fingerprint": state.fingerprint,
        "settings": dict(state.settings),
        "made_of": state.made_of,
        "tensors": trainable_state(model),
        "optimiser": optimiser.state_dict(),
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def read_state(
    path: Path, fresh: RunState, model: TextSAM, optimiser: torch.optim.Optimizer
) -> RunState:
    """Read a run's state into model and optimiser.

    Args:
        path: of the file.
        fresh: what the run would begin with; its fingerprint and ingredients must be the file's.
            Ingredients that the file does not know, such as one of before, are taken over.
        model: gets the trained tensors.
        optimiser: gets its moments.

    Raises:
        ConfigError: the file is damaged, or belongs to a run with another configuration, other
            base weights, another frame or other data; nothing was changed then.
        AdapterError: the tensors do not fit.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    # What torch raises for a file that is none of its own depends on its first bytes.
    except (RuntimeError, EOFError, OSError, LookupError, ValueError, pickle.PickleError) as error:
        raise ConfigError(
            f"{path} cannot be read ({str(error).splitlines()[0] if str(error) else error!r}); "
            "remove it to start the run anew"
        ) from error
    if not isinstance(content, dict) or not content.keys() >= _PARTS:
        raise ConfigError(f"{path} is no state of a run; remove it to start the run anew")
    if content["fingerprint"] != fresh.fingerprint:
        # States of earlier versions do not say with which.
        before = content.get("settings")
        others = f" ({changes_between(before, fresh.settings)})" if before else ""
        raise ConfigError(
            f"{path} belongs to a run with other settings{others}; use the same configuration to "
            "resume, or another `out` (or name) to start anew"
        )
    made_of: Ingredients = content.get("made_of", {})
    if changed := differences(made_of, fresh.made_of):
        raise ConfigError(
            f"{path} belongs to a run {changed}; resume it with what it began with, or choose "
            "another `out` (or name) to start anew"
        )
    tensors: dict[str, Tensor] = content["tensors"]
    load_trainable(model, tensors, source=str(path))
    optimiser.load_state_dict(content["optimiser"])
    return RunState(
        content["step"],
        content["best"],
        fresh.fingerprint,
        fresh.settings,
        {**made_of, **fresh.made_of},
    )
