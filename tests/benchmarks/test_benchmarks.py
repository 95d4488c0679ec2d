"""The benchmarks run, in their quick form, and write what they found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.provenance import REPOSITORY


@pytest.mark.slow
@pytest.mark.parametrize("question", ["features", "training", "protocol", "startup", "scheduling", "intervals"])
def test_quick(question: str, tmp_path: Path) -> None:
    """Those of memory and skull stripping take a minute even so; their parts are used by start-up and by the stages."""
    words = [sys.executable, "-m", f"benchmarks.bench_{question}", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / f"{question}.json").read_text())
    assert content["found"]
    assert all(isinstance(value, str) or value >= 0 for value in content["found"].values())
    assert content["machine"]["versions"]["torch"]
