"""Files of a whole input: a volume per prompt, a DICOM segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from textsam.folder.held import HeldAnswers
from textsam.folder.plan import Input, Plan
from textsam.io.stack import Stack

if TYPE_CHECKING:
    from textsam.io.dicom import DicomStack

__all__ = ["WHOLE_FORMATS", "write_whole"]

WHOLE_FORMATS = ("nifti", "seg")


def write_whole(
    name: str, plan: Plan, item: Input, stack: Stack, held: HeldAnswers, fingerprint: str
) -> tuple[list[Path], list[Path]]:
    """Write one of `WHOLE_FORMATS`.

    Args:
        name: of the format.
        plan: of the run.
        item: the input.
        stack: its images.
        held: its answers.
        fingerprint: of the model and its settings.

    Returns:
        Per prompt the file, or the folder of the files, that its answers are in; and all files.

    Raises:
        TextSAMError: the answers cannot be written so.
    """
    if name == "nifti":
        paths = _nifti(plan, item, stack, held)
        return paths, paths
    target, paths = _seg(plan, item, cast("DicomStack", stack), held, fingerprint)
    return [target] * len(plan.prompts), paths


def _nifti(plan: Plan, item: Input, stack: Stack, held: HeldAnswers) -> list[Path]:
    from textsam.io.nifti_out import write_nifti

    paths = []
    for number, slug in enumerate(plan.slugs):
        path = plan.out / f"{item.base}_{slug}.nii.gz"
        write_nifti(path, stack, held.masks(number))
        paths.append(path)
    return paths


def _seg(
    plan: Plan, item: Input, stack: DicomStack, held: HeldAnswers, fingerprint: str
) -> tuple[Path, list[Path]]:
    from textsam.io.seg import seg_identity, write_seg

    settings = plan.options.reading()
    fractional = plan.options.fractional
    identity = seg_identity(
        stack, plan.prompts, fingerprint, fractional=fractional, settings=settings, indices=held
    )
    # Images without a place in the patient get a file each.
    single = len(identity.instance_uids) == 1
    target = plan.out / f"{item.base}_seg{'.dcm' if single else ''}"
    paths = write_seg(
        target, stack, held, fractional=fractional, fingerprint=fingerprint, settings=settings
    )
    return target, paths
