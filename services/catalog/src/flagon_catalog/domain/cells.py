"""How a text stands in a cell of a CSV file, and how it is had back."""

FORMULA = "=+-@\t\r"
"""What makes a spreadsheet take a cell for a formula when it comes first."""


def harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula.

    An apostrophe in front makes it text. One that is there already gets another, so that
    taking one away always gives what it was.
    """
    return f"'{text}" if text.lstrip("'").startswith(tuple(FORMULA)) else text


def exact(cell: str) -> str:
    """Return the text that `harmless` made this cell of."""
    if cell.startswith("'") and cell.lstrip("'").startswith(tuple(FORMULA)):
        return cell[1:]
    return cell
