"""The report's section on learning from few labels."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reporting.pages import environment
from reporting.recycle_page import Recycled, curve_figure, recycled_section


def page(says: str = "no gain", generation: int = 1) -> Recycled:
    rows = []
    for share in (0.1, 1.0):
        usual = {"labelled": share, "patients": 60 * share, "auc": 0.7, "auc_low": 0.6, "auc_high": 0.8}
        rows.append(usual | {"way": "real only", "rho": 0.0, "says": np.nan})
        rows.append(
            usual | {"way": "synthetic", "rho": 0.5, "difference": 0.01, "low": -0.02, "high": 0.04, "p": 0.5,
                     "p_holm": 1.0, "says": says}
        )  # fmt: skip
    return Recycled(pd.DataFrame(rows), {"generation": generation, "repeats": 3})


def html(recycled: Recycled) -> str:
    return environment().get_template("recycled.html.j2").render(recycled=recycled_section(recycled))


def test_no_gain_is_said() -> None:
    text = html(page())
    assert "No gain: against real patients alone, no way of making more is better beyond chance." in text
    assert "data:image/svg+xml" in text
    assert "of generation 1." in text
    assert "drawn from patients who were drawn themselves" in html(page(generation=2))


def test_gains_and_harm_are_named_with_their_share() -> None:
    gain = html(page("gain"))
    assert "A gain beyond chance: synthetic, ρ = 0.5 at 10\xa0% of the labels" in gain
    assert "No gain" not in gain
    harm = html(page("harm"))
    assert "Harm beyond chance" in harm
    assert "No gain" in harm


def test_nothing_to_compare_is_said_and_bytes_are_the_same() -> None:
    only = page().curve.query("way == 'real only'")
    assert "Nothing but real patients could be tried" in html(Recycled(only, {"generation": 1, "repeats": 3}))
    assert recycled_section(page())["figure"] == recycled_section(page())["figure"]


def test_no_two_ways_look_alike() -> None:
    """The stage has nine ways beside real patients alone."""
    rows = [
        {"labelled": 1.0, "patients": 60, "way": f"way {i}", "rho": 0.5, "says": "no gain", "p": 0.5, "p_holm": 1.0}
        | {"auc": 0.7, "auc_low": 0.6, "auc_high": 0.8, "difference": 0.01, "low": -0.02, "high": 0.04}
        for i in range(9)
    ]
    figure = Figure()
    curve_figure.__wrapped__(figure, pd.DataFrame(rows))  # type: ignore[attr-defined]
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == 9
