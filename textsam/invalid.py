"""What pydantic found wrong, in one line of a message."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from fastapi.exceptions import ValidationException
    from pydantic import BaseModel, ValidationError

__all__ = ["invalid_fields"]


def invalid_fields(
    error: ValidationError | ValidationException,
    whole: str,
    outer: int = 0,
    model: type[BaseModel] | None = None,
) -> str:
    """Every wrong field with its fault, "optim.lr: …; name: …".

    Args:
        error: of a model's validation.
        whole: what to call the model itself, for a fault of no single field.
        outer: how many parts at the beginning of each field's place to leave out, such as 1 for
            the "body" of a request.
        model: what was validated, if a field it does not have is to be told with those it has.
    """
    told = []
    listed: set[tuple[str, ...]] = set()
    for item in error.errors():
        # What our own validators say needs no word of how it was raised.
        place, message = item["loc"][outer:], item["msg"].removeprefix("Value error, ")
        if model is not None and item["type"] == "extra_forbidden":
            message = _unknown(str(place[-1]), _fields_at(model, place[:-1]), listed)
        elif message.startswith("Input should") and isinstance(
            item["input"], str | int | float | None
        ):
            # Shortened: what comes to a server may be long.
            message += f", got {reprlib.repr(item['input'])}"
        told.append(f"{'.'.join(str(part) for part in place) or whole}: {message}")
    return "; ".join(told)


def _unknown(name: str, known: Sequence[str], listed: set[tuple[str, ...]]) -> str:
    """What to say of a name; the known ones are listed once, however many are not."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"unknown; did you mean {close[0]}?"
    if tuple(known) in listed:
        return "unknown"
    listed.add(tuple(known))
    return f"unknown; known are {', '.join(known)}"


def _fields_at(model: type[BaseModel], place: Sequence[Any]) -> list[str]:
    """The fields there are at a place inside of a model."""
    models = [model]
    for part in place:
        # What is no field, the number of an item or the name of an alternative, leads nowhere else.
        held = [one.model_fields[part] for one in models if part in one.model_fields]
        if held:
            models = [inner for field in held for inner in _models_in(field.annotation)]
    return [name for one in models for name in one.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
