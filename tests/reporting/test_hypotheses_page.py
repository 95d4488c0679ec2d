"""The report's section on questions asked in silico."""

import numpy as np
import pandas as pd

from reporting.hypotheses_page import Hypotheses, hypotheses_section
from reporting.pages import environment

ASSOCIATION = "association, not intervention"


def effects(**changes: object) -> pd.DataFrame:
    usual = {
        "hypothesis": "T1c along class by -1 sd", "source": "T1c", "held": "", "target": "FLAIR", "patients": 30,
        "refused": 2, "effect": -0.4, "low": -0.6, "high": -0.2, "p": 0.001, "p_holm": 0.002, "of_parameters": 0.9,
        "permuted": 0.01, "permuted_low": -0.1, "permuted_high": 0.1, "random": np.nan, "random_low": np.nan,
        "random_high": np.nan, "says": ASSOCIATION, "note": "",
    }  # fmt: skip
    return pd.DataFrame([usual | changes, usual | {"target": "class", "effect": 0.01, "p_holm": 0.8}])


def page(table: pd.DataFrame | None = None) -> Hypotheses:
    table = effects() if table is None else table
    place = pd.MultiIndex.from_product([range(1, 4), range(1, 4)], names=["row", "column"]).to_frame(index=False)
    maps = place.assign(hypothesis="T1c along class by -1 sd", target="FLAIR", change=0.1, sd=0.2)
    return Hypotheses(table, maps, {"positive": "<mutant>", "repeats": 5, "shrinkage": [0.3, 0.5]})


def html(hypotheses: Hypotheses) -> str:
    return environment().get_template("hypotheses.html.j2").render(hypotheses=hypotheses_section(hypotheses))


def test_the_section_says_what_was_found_and_that_it_is_an_association() -> None:
    text = html(page())
    assert "Association, not intervention." in text
    assert "(λ = 0.40 on average)" in text
    assert text.count("data:image/svg+xml") == 2
    assert "<mutant>" not in text
    said = hypotheses_section(page())["sentences"]
    assert said[0] == (
        f"T1c along class by -1 sd: FLAIR would differ by -0.40 sd, 95 % interval -0.60 to -0.20 ({ASSOCIATION})."
    )
    assert "No difference is shown" in said[1]


def test_what_is_held_is_no_mere_association() -> None:
    table = effects().assign(held="age", says="an effect only if all that both depend on is held: age")
    text = html(page(table))
    assert "Association, not intervention" not in text
    assert "an effect only if all that both depend on is held: age" in text


def test_a_control_that_speaks_is_said() -> None:
    assert not hypotheses_section(page())["loud"]
    loud = html(page(effects(permuted=0.3, permuted_low=0.1, permuted_high=0.5)))
    assert "the control with permuted pairings is not silent" in loud
    assert "do not believe the effect beside it" in loud


def test_nothing_asked_is_said_with_its_reason() -> None:
    table = effects(target="", note="7 of 7 moves are refused").iloc[:1]
    text = html(page(table))
    assert "No hypothesis could be asked" in text
    assert "7 of 7 moves are refused" in text


def test_the_same_effects_give_the_same_bytes() -> None:
    one, two = hypotheses_section(page()), hypotheses_section(page())
    assert (one["forest"], one["maps"]) == (two["forest"], two["maps"])
