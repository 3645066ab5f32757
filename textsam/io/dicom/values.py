"""Take values out of a header with the types they should have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from textsam.errors import ImageError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["first_item", "numbers", "numbers_or_none", "text", "whole_number"]


def _value(dataset: Dataset, keyword: str, source: str) -> Any:
    # The conversion from bytes happens here, so this is where damage shows.
    try:
        return dataset.get(keyword)
    except Exception as error:
        raise ImageError(
            f"{source}: the header's {keyword} cannot be read ({type(error).__name__}); the file "
            "is damaged or breaks the DICOM standard: export it again"
        ) from error


def text(dataset: Dataset, keyword: str, source: str) -> str:
    """The value as text without surrounding blanks, "" where there is none."""
    value = _value(dataset, keyword, source)
    return "" if value is None else str(value).strip(" \0")


def whole_number(
    dataset: Dataset, keyword: str, source: str, default: int | None = None
) -> int | None:
    """The value as int, `default` where it is absent or empty.

    Raises:
        ImageError: it is there and is not one whole number.
    """
    value = _value(dataset, keyword, source)
    if value is None or value == "":
        return default
    try:
        number = float(value)
        if not number.is_integer():
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise ImageError(
            f"{source}: the header's {keyword} is {str(value)[:40]!r}, not a whole number; the "
            "file is damaged: export it again"
        ) from error
    return int(number)


def numbers(dataset: Dataset, keyword: str, source: str) -> tuple[float, ...]:
    """The value's numbers, () where it is absent or empty.

    Raises:
        ImageError: it is there and holds something else than finite numbers.
    """
    value = _value(dataset, keyword, source)
    if value is None or value == "":
        return ()
    several = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    try:
        found = tuple(float(number) for number in several)
    except (TypeError, ValueError) as error:
        raise ImageError(
            f"{source}: the header's {keyword} is {str(value)[:40]!r}, not numbers; the file is "
            "damaged: export it again"
        ) from error
    if not all(math.isfinite(number) for number in found):
        raise ImageError(
            f"{source}: the header's {keyword} is {str(value)[:40]!r}, which is not finite; the "
            "file is damaged: export it again"
        )
    return found


def numbers_or_none(
    dataset: Dataset | None, keyword: str, count: int, source: str
) -> tuple[float, ...] | None:
    """`count` finite numbers, None where the header does not say them, or not so."""
    if dataset is None:
        return None
    try:
        found = numbers(dataset, keyword, source)
    except ImageError:
        # For what an image can do without: a size in mm that nobody can read is not known.
        return None
    return found if len(found) == count else None


def first_item(dataset: Dataset, keyword: str, source: str) -> Dataset | None:
    """The first item of a sequence, None where it is absent, empty or no sequence."""
    items = _value(dataset, keyword, source)
    if not items or not hasattr(items[0], "get"):
        return None
    item: Dataset = items[0]
    return item
