"""What differs between two sets of facts, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["changes_between"]

_TOLD = 4


def changes_between(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, in words: "tuning.rank was 4 and is 8; …".

    Args:
        before, now: JSON types.
    """
    old, new = dict(_leaves(before)), dict(_leaves(now))
    nothing = object()
    names = [n for n in {**old, **new} if old.get(n, nothing) != new.get(n, nothing)]
    told = [_change(name, old, new) for name in names[:_TOLD]]
    if len(names) > _TOLD:
        told.append(f"and {len(names) - _TOLD} more")
    return "; ".join(told)


def _leaves(facts: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(facts, Mapping):
        for name, value in facts.items():
            yield from _leaves(value, f"{path}.{name}" if path else name)
    else:
        yield path, facts


def _change(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if name not in old:
        return f"{name} is {new[name]!r} and was not there"
    if name not in new:
        return f"{name} was {old[name]!r} and is no longer there"
    if isinstance(old[name], str) and len(old[name]) == 64:
        return f"{name}: the files are others"
    return f"{name} was {old[name]!r} and is {new[name]!r}"
