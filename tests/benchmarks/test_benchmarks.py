"""The benchmarks run, in their quick form, and write what they found."""

import importlib
import json
import math
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "question",
    [
        "features",
        "training",
        "protocol",
        "startup",
        "scheduling",
        "intervals",
        "watermark",
        "joint",
        "synthetic",
        "fairness",
        "fairness_remedies",
        "federation",
        "hypotheses",
        "missingness",
    ],
)
def test_quick(question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of memory and skull stripping take a minute even so, as do whole searches for a watermark.

    Their parts are used by start-up, by the stages and by the tests of watermarks.
    """
    only = ["--only", "changes", "keys", "picture keys", "attacks"] if question == "watermark" else []
    monkeypatch.setattr(sys, "argv", ["", "--quick", "--out", str(tmp_path), *only])
    importlib.import_module(f"benchmarks.bench_{question}").main()
    content = json.loads((tmp_path / f"{question}.json").read_text())
    assert content["found"]
    assert all(isinstance(value, str) or not math.isnan(value) for value in content["found"].values())
    assert content["machine"]["versions"]["torch"]
