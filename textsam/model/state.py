"""Load a state dict exactly: all keys used and there, all shapes and values right, or an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from textsam.errors import WeightsError

__all__ = ["differences", "load_exactly", "not_finite"]


def _listed(names: Iterable[str], limit: int = 8) -> str:
    ordered = sorted(names)
    more = f" … and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more


def differences(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Say how `given` differs from `expected` in names, shapes and kinds of number.

    Empty when it does not, and its numbers are all finite.
    """
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
    # Whole numbers where weights should be are the steps of a quantised model.
    other = [
        f"{name} is {_kind(given[name])}, expected {_kind(own)}"
        for name, own in expected.items()
        if name in given and not _fits(given[name], own)
    ]
    if other:
        problems.append(f"{len(other)} of another kind: {_listed(other)}")
    elif broken := not_finite({name: given[name] for name in expected.keys() & given.keys()}):
        problems.append(f"{len(broken)} with NaN or infinite values: {_listed(broken)}")
    return problems


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors with NaN or infinite values."""
    return [name for name, tensor in state.items() if not _finite(tensor)]


def _fits(given: Tensor, own: Tensor) -> bool:
    """Whether a tensor's numbers are what another's can take: of any floating type for its own."""
    plain = given.layout == torch.strided and not given.is_quantized and not given.is_meta
    # Counters, as of a batch norm, may have been made floating with all the rest.
    return plain and (given.is_floating_point() or not own.is_floating_point())


def _kind(tensor: Tensor) -> str:
    special = (
        ("quantised", tensor.is_quantized),
        ("sparse", tensor.layout != torch.strided),
        ("empty of values", tensor.is_meta),
    )
    return next((name for name, holds in special if holds), str(tensor.dtype))


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # PyTorch cannot ask that of 8-bit numbers.
    wide = tensor if tensor.element_size() > 1 else tensor.float()
    # NaN is the least and the greatest where there is one. Asking each number takes twenty times as
    # long: seconds for the largest models.
    return all(bool(edge.isfinite()) for edge in wide.aminmax())


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy `state` into `module`, refusing what is missing, left over, of another shape or broken.

    Args:
        module: whose `state_dict()` names are expected.
        state: tensors of any floating type; they take the module's type.
        source: named in the error.

    Raises:
        WeightsError: on any difference, before anything is copied.
    """
    own = module.state_dict()
    if problems := differences(own, state):
        raise WeightsError(f"{source} does not fit {type(module).__name__}: " + "; ".join(problems))
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
