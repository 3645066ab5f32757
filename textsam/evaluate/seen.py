"""Which images of an evaluation an adapter says it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from textsam.data.problems import Problems
from textsam.data.sample import Sample
from textsam.data.selection import Selection
from textsam.data.sets import samples_from_manifest

__all__ = ["trained_on"]


def trained_on(training: Mapping[str, Any], root: Path, samples: Sequence[Sample]) -> list[str]:
    """Names of the samples that a training's own selections hold, in order.

    What the adapters it went on from were trained on is not in its record. Selections that the
    manifest does not have tell nothing here, as the adapter may come from elsewhere.

    Args:
        training: of an adapter's configuration.
        root: folder with the manifest, from which the samples come.
        samples: to be evaluated.
    """
    sets = {sample.dataset for sample in samples}
    recorded = training.get("data")
    listed = recorded.get("train", ()) if isinstance(recorded, Mapping) else ()
    selections = []
    for entry in listed:
        try:
            selection = Selection.model_validate(entry)
        except ValidationError:  # of a version with other fields
            continue
        if selection.set in sets:
            selections.append(selection.model_copy(update={"limit": None}))
    if not selections:
        return []
    found = samples_from_manifest(root, selections, problems=Problems("training"))
    known = {sample.name for sample in found}
    return [sample.name for sample in samples if sample.name in known]
