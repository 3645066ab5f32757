"""The `data` section of a training configuration: where the images are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from textsam.data.coco import CocoSelection
from textsam.data.named import ConceptName
from textsam.data.selection import Selection
from textsam.sections import Section

__all__ = ["DataSettings", "FolderSelection"]


class FolderSelection(Section):
    """A plain `images/` + `masks/` folder whose masks show one concept.

    Attributes:
        folder: relative to the data root.
        concept: what the masks show.
        split: "train", "val" or "test" when the folder has these inside.
        modality: as in the vocabulary, so that absent concepts can be asked for.
        weight: how often each of its samples is seen per epoch.
    """

    folder: str
    concept: ConceptName
    split: str | None = None
    modality: str = "unknown"
    weight: float = Field(1.0, gt=0)


class DataSettings(Section):
    """Where the images are.

    Attributes:
        root: folder with `manifest.json` and `splits.json`, or holding the plain folders.
        train: what is trained on, from the manifest.
        val: what chooses the best adapter, from the manifest.
        train_folders: plain folders to train on.
        val_folders: plain folders to validate on.
        train_coco: COCO files to train on.
        val_coco: COCO files to validate on.
        allow: what the check of the data finds and a run may have all the same: "empty-class",
            "same-image".
    """

    root: str
    train: tuple[Selection, ...] = ()
    val: tuple[Selection, ...] = ()
    train_folders: tuple[FolderSelection, ...] = ()
    val_folders: tuple[FolderSelection, ...] = ()
    train_coco: tuple[CocoSelection, ...] = ()
    val_coco: tuple[CocoSelection, ...] = ()
    allow: tuple[Literal["empty-class", "same-image"], ...] = ()

    @model_validator(mode="after")
    def _something_to_train_on(self) -> DataSettings:
        if not (self.train or self.train_folders or self.train_coco):
            raise ValueError("data.train, data.train_folders and data.train_coco are all empty")
        if not (self.val or self.val_folders or self.val_coco):
            raise ValueError("data.val, data.val_folders and data.val_coco are all empty")
        return self
