"""What the benchmarks share: taking turns, the machine's own speed, and writing down the results."""

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pipeline.core.provenance import REPOSITORY, git_commit, versions
from pipeline.store.base import read_json
from pipeline.store.comparison import ComparisonSet

RESULTS = REPOSITORY / "runs" / "benchmarks"
MATRIX = 2048  # rows and columns of the matrix product that the machine's speed is measured with


def options(text: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON; default runs/benchmarks")
    return parser


def in_turns(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, all run once a round so that a drifting machine drifts for all of them.

    The first round warms up and does not count; no round more (0) is to see that it runs, and it counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken[1:] or taken) for name, taken in seconds.items()}


def matrix_product(dtype: Any, *, device: torch.device | str = "cpu", size: int = MATRIX) -> Callable[[], Any]:
    """One product of two square matrices; `MATRIX_GFLOP` of work at the usual size."""
    a, b = (torch.randn(size, size).to(device, dtype) for _ in range(2))
    return lambda: a @ b


MATRIX_GFLOP = 2 * MATRIX**3 / 1e9


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    """Overlap of two bool masks."""
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def finished_comparison(workspace: Path, scenario: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the test predictions of a scenario in a finished stage `baselines`, and the settings of that stage.

    Raises:
        ValueError: the stage has not finished, so that its tables may be those of an earlier run, or it has no
            predictions of the scenario.
    """
    store = ComparisonSet(workspace / "baselines")
    if (made := read_json(store.folder / "manifest.json")) is None:
        raise ValueError(f"{workspace}: the stage baselines has not finished; run it again")
    table = store.read(store.folder, "predictions.csv")
    if table is None or table[table["scenario"] == scenario].empty:
        raise ValueError(f"{workspace} has no predictions of the scenario {scenario!r}; run the stage baselines")
    return table[table["scenario"] == scenario], made["made_from"]["settings"]


def machine() -> dict[str, Any]:
    """Describe the machine, without host or user names."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "system": platform.system(),
        "versions": versions(),
        "git_commit": git_commit(),
        "date": datetime.date.today().isoformat(),
    }


def finish(name: str, results: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """Print the results and write them as JSON, with the machine beside it."""
    for key, value in results.items():
        print(f"{key:58s} {value if isinstance(value, str) else _number(value)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python", "-m", f"benchmarks.bench_{name}", *sys.argv[1:]])
    content = {"command": command, "machine": machine(), "found": dict(results)}
    path = arguments.out / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    print(f"→ {path}")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
