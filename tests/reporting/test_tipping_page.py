"""What the report says of moves of imputed scores."""

import numpy as np
import pandas as pd
import pytest

from evaluation.tipping import ANSWERS, AUC, CHANGE, DIFFERENCE
from reporting.pages import environment
from reporting.tipping_page import NOT_ASKED, NOTHING, tipping_section

DELTAS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def tipping(modality: str = "PET <b>") -> pd.DataFrame:
    """Classes are apart until δ = 1; the AUC is above chance throughout; answers change from 0.5 on."""
    rows = []
    for delta in DELTAS:
        about = {"modality": modality, "moved": "all", "delta": delta, "n": 40, "lacking": 12}
        rows += [
            {**about, "conclusion": DIFFERENCE, "value": 0.6 - delta / 2, "low": 0.3 - delta / 2, "high": 0.9},
            {**about, "conclusion": AUC, "value": 0.8, "low": 0.6, "high": 0.9},
            {**about, "conclusion": CHANGE, "value": 0.0, "low": -0.1, "high": 0.1},
            {**about, "conclusion": ANSWERS, "value": 0.25 * (delta >= 0.5), "low": np.nan, "high": np.nan},
        ]
    return pd.DataFrame(rows)


SELECTION = pd.DataFrame(
    {
        "modality": ["PET <b>"], "slope": [2.0], "n": [24], "lacking": [11], "delta": [0.8], "mean": [0.4],
        "apart": [0.55], "converged": [True],
    }
)  # fmt: skip
NONE = tipping().iloc[:0], SELECTION.iloc[:0]


def test_the_first_move_that_changes_a_conclusion_is_said() -> None:
    section = tipping_section(tipping(), SELECTION, nobody=False)
    assert section is not None
    apart, auc, answers = section["sentences"]
    assert apart == "PET <b>: the classes lie 0.60 sd [0.30 to 0.90] apart, above 0; that first changes at δ = +1."
    assert auc.endswith("above chance; that changes for no δ from -1 to +1.")
    assert (
        answers
        == "PET <b>: 12 test predictions are of patients who lack the scan; the first of them change at δ = +0.5."
    )
    rows = {row[1]: row for row in section["table"].rows}
    assert section["table"].headers[4:] == ("Changes at δ", "δ -1", "δ 0", "δ +1")
    assert rows["Classes apart, sd"][3:] == (
        "12 of 40", "+1", "1.10 [0.80 to 0.90]", "0.60 [0.30 to 0.90]", "0.10 [-0.20 to 0.90]"
    )  # fmt: skip
    assert rows["Answers that change"][4] == "+0.5"
    assert section["selection"].rows == (("PET <b>", "+2", "11 of 24", "+0.80", "+0.40", "0.55"),)
    html = environment().get_template("tipping.html.j2").render(tipping=section)
    assert "<b>" not in html
    assert "The slope is stated, never learnt" in html
    assert "data:image/svg+xml" in html


def test_a_stated_slope_whose_fit_never_rested_has_no_figure() -> None:
    lost = SELECTION.assign(delta=np.nan, mean=np.nan, apart=np.nan, converged=False, slope=-2.0)
    section = tipping_section(tipping(), pd.concat([SELECTION, lost]), nobody=False)
    assert section is not None
    assert section["selection"].rows[1][3:] == ("not converged",) * 3
    assert section["selection"].rows[0][3] == "+0.80"


@pytest.mark.parametrize(("nobody", "words"), [(True, NOTHING), (False, NOT_ASKED)])
def test_nothing_to_tip_is_said(nobody: bool, words: str) -> None:
    section = tipping_section(*NONE, nobody=nobody)
    assert section is not None
    assert section["sentences"] == [words]
    html = environment().get_template("tipping.html.j2").render(tipping=section)
    assert "<table" not in html
    assert "Stated slope" not in html
    assert tipping_section(None, None, nobody=False) is None
