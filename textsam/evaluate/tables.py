"""Tables as Markdown and as CSV, and the line below them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["csv_text", "markdown", "not_asked"]


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]], left: int) -> str:
    """A Markdown table whose first `left` columns are aligned left, the others right."""
    rule = ["---" if column < left else "---:" for column in range(len(head))]
    # A bar in a name would end the cell.
    top, *cells = ([str(cell).replace("|", "\\|") for cell in row] for row in (head, *rows))
    return "\n".join(f"| {' | '.join(row)} |" for row in (top, rule, *cells))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as comma-separated lines; None is an empty cell."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def not_asked(skipped: Mapping[str, int]) -> str:
    """The line on "set/concept" -> images in which it was not asked."""
    names = ", ".join(f"{name} ({count})" for name, count in skipped.items())
    return f"not asked, unknown to the adapter: {names}"
