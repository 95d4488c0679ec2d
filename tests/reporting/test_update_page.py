"""The report's section on updates."""

from typing import Any

import numpy as np
import pandas as pd

from reporting.pages import environment
from reporting.update_page import Update, update_section


def page(count: int = 2, **drift: Any) -> Update:
    found = {"p": float("nan"), "limit": 0.03, "newest": 4, "earlier": 30, "found": False} | drift
    versions = [
        {"version": n + 1, "added": ["a"] * 30, "replaced": [], "erased": 0, "in": [f"<p{i}>" for i in range(30 + n)],
         "counts_as": 30.0 + n, "log_loss": 0.5, "forgetting": 1.0,
         "drift": found if n else {**found, "p": None, "found": False}}
        for n in range(count)
    ]  # fmt: skip
    random = np.random.default_rng(0)
    how = np.where(np.arange(34) < 30, "held out", "before it was learnt")
    log = pd.DataFrame({"version": 1 + (np.arange(34) >= 30), "how": how, "log_loss": random.random(34)})
    return Update(versions, log.assign(surprise=random.standard_normal(34)), 2)


def html(updated: Update) -> str:
    return environment().get_template("update.html.j2").render(updated=update_section(updated))


def test_the_section_shows_versions_stream_and_expiry() -> None:
    text = html(page())
    assert "data:image/svg+xml" in text
    assert "31 patients are in" in text
    assert "Calibration has expired" in text
    assert "before version 2 was" in text
    assert "too few to look for drift" in text
    assert "&lt;p" not in text  # no patient is named
    first = html(page(1))
    assert "Calibration has expired" not in first


def test_drift_is_said_as_it_was_found() -> None:
    assert "no drift was found (p = 0.4, limit 0.03). That is no proof of none." in html(page(p=0.4, newest=20))
    found = page(p=1e-6, newest=20, found=True)
    assert "farther from the model (p = 1e-06, limit 0.03). Drift." in html(found)
    assert update_section(found)["versions"].flagged == {1}
    assert update_section(found)["versions"].rows[1][-1] == "0.0000 drift"


def test_the_same_log_gives_the_same_bytes() -> None:
    assert update_section(page())["figure"] == update_section(page())["figure"]
