"""Escapes in text from files and names, for terminals and logs."""

import unicodedata


def printable(text: str) -> str:
    r"""Return the text with invisible and terminal-control characters as escapes such as `\x1b`.

    That is: control characters, line ends among them; marks that turn the direction of writing or take no width; halves
    of characters, which stand for bytes of a name that is not UTF-8; code points that stand for nothing.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else _escaped(c) for c in text)


def printable_lines(text: str, *, start: str = "  ") -> str:
    """Return the text with its line feeds kept; `start` before every line but the first marks them as continued."""
    return f"\n{start}".join(printable(line) for line in text.split("\n"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
