"""What every page is made with: templates that escape what they are given, and pictures as part of the page."""

from __future__ import annotations

import base64

import jinja2


def environment() -> jinja2.Environment:
    """The templates of this package; a name that is missing is an error, and markup in names is shown as text."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("evaluation", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_uri(content: bytes, kind: str = "image/svg+xml") -> str:
    """Write a picture as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
