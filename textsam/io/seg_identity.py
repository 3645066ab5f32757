"""UIDs of a segmentation that can be told before it is made, and are the same every time."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import textsam
from textsam.io.seg_source import group_frames

if TYPE_CHECKING:
    from textsam.io.dicom import DicomStack

__all__ = ["SegIdentity", "derived_uid", "seg_identity"]


@dataclass(frozen=True)
class SegIdentity:
    """UIDs of the answers to one question about one stack.

    Attributes:
        series_uid: Series Instance UID of all instances.
        instance_uids: SOP Instance UID of each, in the order they are made.
        tracking_uids: Tracking UID of each segment, one per prompt, the same in all instances.
    """

    series_uid: str
    instance_uids: tuple[str, ...]
    tracking_uids: tuple[str, ...]


def seg_identity(
    stack: DicomStack,
    prompts: Sequence[str],
    model_identity: str = "",
    *,
    fractional: bool = False,
    settings: str = "",
    indices: Iterable[int] | None = None,
) -> SegIdentity:
    """The UIDs that `seg_datasets` gives its instances, from headers alone.

    They are a hash of the sources (SOP Instance UIDs and frame numbers), the prompts as written,
    the identity of the model, the version of TextSAM, `fractional` and `settings`; so a question
    asked twice is recognised, and one that differs in any of these is not taken for it.

    Args:
        stack: the images.
        prompts: in the order of the segments.
        model_identity: of adapter, settings and precision, `Segmenter.identity`.
        fractional, settings: as given to `seg_datasets`.
        indices: images that were answered; None means all of the stack. Leaving some out is
            another question.

    Raises:
        ConfigError, ImageError: as `group_frames`.
    """
    groups = group_frames(stack, indices)
    question = [textsam.__version__, model_identity, fractional, settings, list(prompts)]
    headers = stack.headers
    members = []
    for group in groups:
        places = [stack.where(index) for index in group.indices]
        members.append([[str(headers[file].SOPInstanceUID), frame] for file, frame in places])
    series = derived_uid("series", question, members)
    return SegIdentity(
        series,
        tuple(derived_uid("instance", series, member) for member in members),
        tuple(derived_uid("tracking", series, number) for number in range(len(prompts))),
    )


def derived_uid(*parts: object) -> str:
    """A UID that follows from `parts`, which JSON can hold.

    It is below 2.25, which needs no registration: a UUID as a decimal number (PS3.5 B.2), here of
    RFC 9562's version 8 with 122 bits of SHA-256.
    """
    digest = bytearray(hashlib.sha256(json.dumps(["textsam", *parts]).encode()).digest()[:16])
    digest[6] = (digest[6] & 0x0F) | 0x80  # version 8
    digest[8] = (digest[8] & 0x3F) | 0x80  # variant of RFC 9562
    return f"2.25.{uuid.UUID(bytes=bytes(digest)).int}"
