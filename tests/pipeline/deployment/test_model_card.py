"""Names from settings and manifests stay text in the model card, by an independent reader of Markdown."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from pipeline.deployment.bundle_writer import Export
from pipeline.deployment.model_card import Trained, model_card
from reporting.fairness_page import Fairness

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


def fairness(group: str, more: bool) -> Fairness:
    """Two groups, one of them too small, and a pair of groups; bands of age and sites of a few patients too."""
    ends = {
        f"{name}_{end}": v for name in ("auc", "tpr", "fpr") for end, v in (("mean", 0.8), ("low", 0.7), ("high", 0.9))
    }
    row = {"grouping": "sex", "group": group, "subjects": 20, "n": 20, "fewest": 10, "prevalence": 0.5, **ends}
    rows = [row, row | {"group": "M", "fewest": 4}, row | {"grouping": "sex and site", "group": "both"}]
    ages = ("19 to 65", "over 65 to 73", "over 73 to 97", "not given")
    if more:
        rows += [row | {"grouping": "age", "group": label} for label in ages]
        rows += [row | {"grouping": "sex and age", "group": f"F, {label}"} for label in ages]
        rows += [row | {"grouping": "site", "group": "A"}]
        rows += [row | {"grouping": "site", "group": f"ward {n}", "subjects": n, "fewest": 0} for n in (1, 2)]
    gap = {"grouping": "sex", "measure": "auc", "highest": "M", "lowest": group, "gap": 0.3, "low": 0.1, "high": 0.5}
    gap |= {"groups": 2, "p": 0.001, "p_holm": 0.01}
    of_age = gap | {"grouping": "age", "highest": ages[2], "lowest": ages[0]}
    of_both = gap | {"grouping": "sex and age", "highest": f"F, {ages[2]}", "lowest": f"F, {ages[0]}"}
    gaps = pd.DataFrame([gap, *([of_age, of_both] if more else [])])
    return Fairness(pd.DataFrame(rows), gaps, 10, 2000, "AD")


@pytest.fixture
def card(tmp_path: Path, small_model: Callable[..., Path]) -> Callable[..., str]:
    def make(group: str | None = "F", *, more: bool = False, **changes: object) -> str:
        def text(export: Export) -> str:
            audit = None if group is None else fairness(group, more)
            trained = Trained(1, 2, {"train": dict.fromkeys(export.classes, 7)}, 20, export.test, "a credit", audit)
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
    usual = card("Quux", classes=("CN", "Quux", "AD"), authors="Quux", copyright="Quux")
    hostile = card(word, classes=("CN", word, "AD"), authors=f"{word}\n\n# Heading", copyright=f"\n- {word}")
    assert kinds(hostile) == kinds(usual)
    assert shown(hostile).count(word) == shown(usual).count("Quux")
    for kind in ("html_inline", "html_block", "link_open", "image"):
        assert kind not in kinds(hostile)


def test_addresses_are_not_made_into_links(card: Callable[..., str]) -> None:
    """GitHub links bare addresses."""
    found = card(authors="see https://evil.example and WWW.evil.example")
    assert "https:/\\/evil.example and WWW\\.evil.example" in found


def test_the_card_warns_of_running_a_stranger_s_configs(card: Callable[..., str]) -> None:
    assert "never run an untrusted bundle with it" in card()
    assert "--trusted KEY.pub" in card()


def test_the_card_has_the_groups_of_patients_or_says_that_nobody_looked(card: Callable[..., str]) -> None:
    page = card()
    assert "| sex | F | 20 | 0.800 [0.700, 0.900] | 0.800 [0.700, 0.900] | 0.800 [0.700, 0.900] |" in page
    assert "| sex | M | 20 | too few of a class | – | – |" in page
    assert "AUC by sex: M minus F is 0.30" in page
    assert "sex and site" not in page
    assert "Not looked at: the stage confounding had not run" in card(None)


def test_the_card_gives_away_no_age_of_one_patient_and_no_small_group(card: Callable[..., str]) -> None:
    page = card(more=True)
    for group in ("up to 65", "over 65 to 73", "over 73", "not given"):
        assert f"| age | {group} | 20 |" in page
    assert "AUC by age: over 73 minus up to 65 is 0.30" in page
    assert "AUC by sex and age: F, over 73 minus F, up to 65 is 0.30" in page
    assert "| site | others, fewer than 5 patients each | 3 | not looked at | – | – |" in page
    for told in ("19", "97", "ward", "rarest"):
        assert told not in page.split("## Groups of patients")[1].split("##")[0]
