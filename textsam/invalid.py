"""What pydantic found wrong, in one line of a message."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi.exceptions import ValidationException
    from pydantic import ValidationError

__all__ = ["invalid_fields"]


def invalid_fields(error: ValidationError | ValidationException, whole: str, outer: int = 0) -> str:
    """Every wrong field with its fault, "optim.lr: …; name: …".

    Args:
        error: of a model's validation.
        whole: what to call the model itself, for a fault of no single field.
        outer: how many parts at the beginning of each field's place to leave out, such as 1 for
            the "body" of a request.
    """
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc'][outer:]) or whole}: {item['msg']}"
        for item in error.errors()
    )
