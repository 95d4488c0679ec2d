"""Names from settings and manifests stay text in the model card, by an independent reader of Markdown."""

from collections.abc import Callable
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from pipeline.deployment.bundle_writer import Export
from pipeline.deployment.model_card import Trained, model_card

HOSTILE = (
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "a|b",
    "`code`",
    "**loud**",
    "<!-- gone",
    "&lt;b&gt;",
    "~~struck~~ \\[y](data:text/html,z)",
)


@pytest.fixture
def card(tmp_path: Path, small_model: Callable[..., Path]) -> Callable[..., str]:
    def make(**changes: object) -> str:
        def text(export: Export) -> str:
            trained = Trained(1, 2, {"train": dict.fromkeys(export.classes, 7)}, 20, export.test, "a credit")
            return model_card(export, trained, onnx="")

        return (small_model(tmp_path / "bundle", card=text, **changes) / "docs" / "README.md").read_text("utf-8")

    return make


def kinds(markdown: str) -> list[str]:
    """What the page is made of: the names of all tokens in it, in order, but for text itself."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    flat = [inner for token in tokens for inner in (token, *(token.children or ()))]
    return [token.type for token in flat if token.type != "text" and token.type != "text_special"]


def shown(markdown: str) -> str:
    return "".join(
        inner.content
        for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
        for inner in token.children or ()
    )


@pytest.mark.parametrize("word", HOSTILE)
def test_a_name_stays_a_name(card: Callable[..., str], word: str) -> None:
    usual = card(classes=("CN", "plain", "AD"), authors="plain", copyright="plain")
    hostile = card(classes=("CN", word, "AD"), authors=f"{word}\n\n# Heading", copyright=f"\n- {word}")
    assert kinds(hostile) == kinds(usual)
    assert shown(hostile).count(word) == shown(usual).count("plain")
    for kind in ("html_inline", "html_block", "link_open", "image"):
        assert kind not in kinds(hostile)


def test_addresses_are_not_made_into_links(card: Callable[..., str]) -> None:
    """GitHub links bare addresses."""
    found = card(authors="see https://evil.example and WWW.evil.example")
    assert "https:/\\/evil.example and WWW\\.evil.example" in found


def test_the_card_warns_of_running_a_stranger_s_configs(card: Callable[..., str]) -> None:
    assert "never run an untrusted bundle with it" in card()
    assert "--trusted KEY.pub" in card()
