"""Average two adapters of one lineage: what a later training forgot comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from textsam.adapters import (
    TENSORS_FILE,
    AdapterConfig,
    check_tensors,
    find_adapter,
    read_adapter_config,
)
from textsam.caller import warn_caller
from textsam.changes import changes_between
from textsam.checkpoint import save_adapter
from textsam.errors import AdapterError, ConfigError, TextSAMWarning
from textsam.tensors import load_tensors

__all__ = ["LineageWarning", "average_adapters"]

# What of a configuration calibration does not decide.
_KEPT = {
    "name",
    "preset",
    "architecture",
    "prompts",
    "refine_with",
    "score",
    "authors_frame",
    "terms",
    "mask_threshold",
}

# What of a record calibration has measured, and of another adapter.
_MEASURED = {"calibration", "dice_by_sides", "dice_by_cut"}


class LineageWarning(TextSAMWarning):
    """Two adapters to average of which nothing says that they are of one lineage."""


def average_adapters(
    first: str | Path, second: str | Path, out: str | Path, *, weight: float = 0.5
) -> AdapterConfig:
    """Write the adapter whose every number is `(1 - weight) · first + weight · second`.

    Along the straight line between the beginning and the end of a fine-tuning, accuracy on both
    the old and the new data is often above that of either end (Wortsman et al., "Robust
    fine-tuning of zero-shot models", CVPR 2022). That holds for adapters of which one goes on from
    the other; the average of two that began apart is of no use. The low-rank factors of LoRA are
    averaged each for itself, which is another model than the average of their products.

    The result is not calibrated: it has no score map, threshold, refinement or kinds of image.

    Adapters of which neither goes on from the other, and that have no beginning and no run in
    common, are averaged with a `LineageWarning`. It goes by what they record, which are names.

    Args:
        first: adapter folder, or the name of a shipped adapter; the one that the other goes on
            from.
        second: likewise; its name, side, prompts and terms are the result's.
        out: adapter folder to write, none of these two.
        weight: of the second, in [0, 1].

    Raises:
        ConfigError: a weight outside of [0, 1], or `out` is one of the adapters.
        AdapterError: a folder that is none, or adapters of another shape or base, or with another
            choice of what the score comes from or of what refinement takes from a mask.
        OutputError: `out` cannot be written.
    """
    if not 0 <= weight <= 1:
        raise ConfigError(f"weight is {weight}; give the second adapter's share, in [0, 1]")
    folders = (find_adapter(first), find_adapter(second))
    if Path(out).resolve() in [folder.resolve() for folder in folders]:
        raise ConfigError(f"{out} is one of the adapters to average; write to another folder")
    configs = []
    for folder in folders:
        configs.append(read_adapter_config(folder))
        check_tensors(folder, configs[-1])
    old, new = configs
    facts = [config.model_dump(mode="json") for config in configs]
    # No number depends on the side: a training may go on at another one.
    facts[0]["architecture"]["side_px"] = new.architecture.side_px
    # What is not on record in both cannot be compared.
    known = [
        {name: digest for name, digest in config.base.items() if digest != "unknown"}
        for config in configs
    ]
    for own in facts:
        own["base"] = {name: own["base"][name] for name in known[0] if name in known[1]}
    for name in ("preset", "architecture", "base", "score", "refine_with", "authors_frame"):
        before, after = ({name: own[name]} for own in facts)
        if before != after:
            told = changes_between(before, after)
            raise AdapterError(
                f"{first} and {second} differ in {name} ({told}); average adapters of which one "
                "goes on from the other"
            )
    start, end = (load_tensors(folder / TENSORS_FILE) for folder in folders)
    odd = sorted(
        name
        for name in start.keys() | end.keys()
        if name not in start or name not in end or start[name].shape != end[name].shape
    )
    if odd:
        raise AdapterError(f"{first} and {second} do not have the same tensors: {', '.join(odd)}")
    if not _of_one_lineage(old, new):
        begun = [config.training.get("continued_from") or "no adapter" for config in configs]
        warn_caller(
            f"{first} ({old.name!r}, goes on from {begun[0]}) and {second} ({new.name!r}, goes on "
            f"from {begun[1]}) are not known to be of one lineage, and the average of two that "
            "began apart is of no use; average an adapter with one that goes on from it",
            LineageWarning,
        )
    tensors = {
        name: (1 - weight) * start[name].float() + weight * end[name].float() for name in start
    }
    averaged = [
        {
            "name": config.name,
            "tensors_sha256": config.tensors_sha256,
            "weight": share,
            # What is itself an average keeps saying of what.
            **({"averaged": earlier} if (earlier := config.training.get("averaged")) else {}),
        }
        for config, share in zip(configs, (1 - weight, weight), strict=True)
    ]
    made = {name: what for name, what in new.training.items() if name not in _MEASURED}
    config = AdapterConfig(
        **new.model_dump(include=_KEPT),
        base={**old.base, **known[1]},
        refine=0,
        training={**made, "averaged": averaged},
    )
    return read_adapter_config(save_adapter(out, config, tensors))


def _of_one_lineage(one: AdapterConfig, other: AdapterConfig) -> bool:
    """Whether the adapters' records say that they have something in common."""
    begun = [_beginning(config) for config in (one, other)]
    if begun[0] is not None and begun[0] == begun[1]:
        return True
    settings = [config.training.get("config") for config in (one, other)]
    if one.name == other.name and settings[0] and settings[0] == settings[1]:
        return True  # the best and the last of one run
    return any(
        _beginning(later) == earlier.name
        or earlier.tensors_sha256 in set(_averaged(later.training.get("averaged") or ()))
        for earlier, later in ((one, other), (other, one))
    )


def _beginning(config: AdapterConfig) -> str | None:
    """Name of the adapter that this one goes on from."""
    recorded = config.training.get("continued_from")
    # "NAME, step N": the best and the last of a run are alike as a beginning.
    return None if recorded is None else str(recorded).rpartition(", step ")[0]


def _averaged(entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Digests of the tensors of all that an average is of."""
    for entry in entries:
        if digest := entry.get("tensors_sha256"):
            yield str(digest)
        yield from _averaged(entry.get("averaged") or ())
