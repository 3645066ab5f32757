"""Load a state dict exactly: every key used, every key present, every shape right, or an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from textsam.errors import TextSAMError, WeightsError

__all__ = ["differences", "load_exactly"]


def _listed(names: Iterable[str], limit: int = 8) -> str:
    ordered = sorted(names)
    more = f" … and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more


def differences(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Say how `given` differs from `expected` in names and shapes; empty when it does not."""
    problems = []
    if missing := expected.keys() - given.keys():
        problems.append(f"{len(missing)} missing: {_listed(missing)}")
    if unknown := given.keys() - expected.keys():
        problems.append(f"{len(unknown)} unknown: {_listed(unknown)}")
    wrong = [
        f"{name} is {tuple(given[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected.keys() & given.keys()
        if expected[name].shape != given[name].shape
    ]
    if wrong:
        problems.append(f"{len(wrong)} of another shape: {_listed(wrong)}")
    return problems


def load_exactly(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    error: type[TextSAMError] = WeightsError,
) -> None:
    """Copy `state` into `module`, refusing anything missing, left over or of another shape.

    Args:
        module: whose `state_dict()` names are expected.
        state: tensors of any floating type; they take the module's type.
        source: named in the error.
        error: raised on any difference, before anything is copied.
    """
    own = module.state_dict()
    if problems := differences(own, state):
        raise error(f"{source} does not fit {type(module).__name__}: " + "; ".join(problems))
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
