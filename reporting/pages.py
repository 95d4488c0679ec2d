"""Tools of all pages: escaped text for HTML and Markdown, and embedded pictures."""

from __future__ import annotations

import base64
import re
import unicodedata

import jinja2


def environment() -> jinja2.Environment:
    """Return the template environment; a missing name is an error, and markup in names is shown as text."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def markdown_text(text: str) -> str:
    """Write a name or a sentence so that Markdown shows it as it is, on one line: no markup, link, HTML or table cell.

    Source: CommonMark 0.31, section 2.4 (a backslash before punctuation), and GitHub's extension autolinks.
    """
    one_line = "".join(" " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter for letter in text)
    marked = re.sub(r"([\\|*_`<~&])", r"\\\1", one_line).replace("](", "]\\(")
    return re.sub(r"://|www\.", _unlinked, marked, flags=re.IGNORECASE)


def _unlinked(match: re.Match[str]) -> str:
    """Escape an address so that it is not made into a link: a backslash before its last mark."""
    return f"{match[0][:-1]}\\{match[0][-1]}"


def data_uri(content: bytes, kind: str = "image/svg+xml") -> str:
    """Write a picture as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
