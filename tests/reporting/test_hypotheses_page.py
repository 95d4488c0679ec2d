"""The report's section on questions asked in silico."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from reporting.hypotheses_page import Hypotheses, hypotheses_section
from reporting.imputed_figures import HypothesisImages, hypothesis_figure
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


def images(target: str = "FLAIR", shape: tuple[int, int, int] = (8, 9, 7)) -> HypothesisImages:
    before = np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    return HypothesisImages("T1c along class by -1 sd", target, before, before - 0.1, before - 0.6, 0.1 * before)


def test_images_are_shown_with_what_they_are_not() -> None:
    shown = dataclasses.replace(page(), images=(images(), images("T1")))
    text = html(shown)
    assert text.count("data:image/svg+xml") == 3
    assert "An association, not an intervention" in text
    assert "1 more rows are in the folder" in text  # T1 has no effect, so it is not among the surest
    assert "As pictures" not in html(page())


@pytest.mark.parametrize("shape", [(8, 9, 7), (6, 6, 3)])
def test_the_figure_of_images_is_the_same_twice(shape: tuple[int, int, int]) -> None:
    one, two = (hypothesis_figure([images(shape=shape)], "radiological") for _ in range(2))
    assert one == two
    assert one != hypothesis_figure([images(shape=shape)], "neurological") or shape[-1] == 3


def test_a_difference_has_symmetric_colours_that_its_spread_shares() -> None:
    figure = Figure()
    hypothesis_figure.__wrapped__(figure, [images()], "radiological")
    assert [each.get_title() for each in figure.axes[:4]] == [
        "IMPUTED:\nbefore the move", "IMPUTED:\nafter the move", "Difference", "Its standard deviation",
    ]  # fmt: skip
    limits = [each.get_images()[0].get_clim() for each in figure.axes if each.get_images()][2:4]
    assert limits[0] == limits[1]
    assert limits[0][0] == -limits[0][1]
    assert limits[0][1] == pytest.approx(0.6, abs=0.01)
