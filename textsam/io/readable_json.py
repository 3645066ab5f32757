"""JSON to be read by people: indented, but a row of numbers on one line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["readable_json"]

# No string can match: in JSON they hold no line breaks.
_ROW = re.compile(r"\[\n\s*([^\[\]{}\"]+?)\n\s*\]")
_BREAK = re.compile(r"\n\s*")


def readable_json(
    content: Mapping[str, Any], *, ensure_ascii: bool = False, allow_nan: bool = True
) -> str:
    """`json.dumps(content, indent=2)` with each innermost list of numbers on one line.

    Args:
        content: what `json.dumps` takes.
        ensure_ascii, allow_nan: as there.
    """
    text = json.dumps(content, indent=2, ensure_ascii=ensure_ascii, allow_nan=allow_nan)
    return _ROW.sub(lambda row: f"[{_BREAK.sub(' ', row[1])}]", text)
