"""Text from files and names, made harmless for a terminal and a log."""

import unicodedata


def printable(text: str) -> str:
    r"""Return the text with everything that shows nothing, or steers a terminal, as an escape such as `\x1b`.

    That is: control characters, line ends among them; marks that turn the direction of writing or take no width; halves
    of characters, which stand for bytes of a name that is not UTF-8; code points that stand for nothing.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else _escaped(c) for c in text)


def printable_lines(text: str, *, start: str = "  ") -> str:
    """Return the text with its line feeds kept; `start` before every line but the first tells it from those of ours."""
    return f"\n{start}".join(printable(line) for line in text.split("\n"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
