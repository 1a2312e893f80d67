"""Text and Markdown tables, and the format of their numbers."""

from typing import Any

NOTHING = "-"
TIMES = "\u00d7"

Table = list[list[str]]


def format_role(name: str) -> str:
    """Formats the name of a role for display."""
    return name.lower().replace("_", " ")


def format_ratio(value: float | None) -> str:
    """Formats a ratio; ``None`` becomes a dash."""
    if value is None:
        return NOTHING
    return (f"{value:.2f}" if 0.1 <= value < 10 else _digits(value)) + TIMES


def format_number(record: dict[str, Any], figure: str) -> str:
    """Formats a figure of a record; a missing one becomes a dash."""
    number = record.get(figure)
    return NOTHING if number is None else _digits(number)


def format_percentage(record: dict[str, Any], figure: str) -> str:
    """Formats a figure of a record as a percentage; a missing one becomes a dash."""
    fraction = record.get(figure)
    return NOTHING if fraction is None else f"{fraction:.0%}"


def _digits(number: float) -> str:
    """Formats a number with three digits, without an exponent."""
    return f"{number:.0f}" if number >= 100 else f"{number:#.3g}".rstrip(".")


def align(table: Table) -> str:
    """Formats a table as text, with numbers aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        first, *rest = (
            cell.rjust(width) if _is_number(cell) else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    return cell == NOTHING or (cell[:1].isdigit() and not cell.strip(f"{TIMES}%.0123456789"))


def markdown(table: Table) -> str:
    """Formats a table in Markdown."""
    header, *rows = table
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
