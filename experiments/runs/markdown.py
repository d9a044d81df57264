"""Markdown tables of the reports."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]], align: str = "") -> list[str]:
    """Returns the lines of a Markdown table.

    Args:
      head: titles of the columns.
      rows: cells, shown by `str`; a `|` in a cell is escaped.
      align: `l` or `r` for each column; empty leaves the alignment to the viewer.
    """
    rule = "".join({"l": "|---", "r": "|---:"}[side] for side in align) or "| --- " * len(head)
    shown = ([str(cell).replace("|", "\\|") for cell in row] for row in (head, *rows))
    first, *others = (f"| {' | '.join(row)} |" for row in shown)
    return [first, rule + "|", *others]
