"""Does memory, or time a subject, grow with the cohort? Every stage at four sizes, each in a process of its own."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import simulated
from benchmarks.common import finish, options

STAGES = ("cohort", "split", "preprocess", "features", "pretrain", "classify", "confounding", "report")


def main() -> None:
    """Run it."""
    parser = options(__doc__ or "")
    parser.add_argument("--keep", type=Path, help="folder for the largest cohort and its run, for bench_startup")
    arguments = parser.parse_args()
    sizes = (50, 100) if arguments.quick else (100, 1_000, 3_000, 10_000)
    results: dict[str, Any] = {}
    for subjects in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.keep if arguments.keep and subjects == sizes[-1] else Path(temporary)
            manifest = simulated.make_cohort(folder / "pictures", subjects)
            for stage in STAGES:
                seconds, peak_mb = simulated.run_stage(stage, manifest, folder / "run")
                results[f"{stage}, {subjects} subjects: peak MB"] = round(peak_mb)
                results[f"{stage}, {subjects} subjects: seconds"] = round(seconds, 2)
                print(f"{stage:12s} {subjects:6d} subjects  {peak_mb:6.0f} MB  {seconds:8.2f} s", flush=True)
    for stage in STAGES:
        for smaller, larger in itertools.pairwise(sizes):  # start-up, the same for any size, drops out
            more = results[f"{stage}, {larger} subjects: seconds"] - results[f"{stage}, {smaller} subjects: seconds"]
            results[f"{stage}: ms for one more subject, {smaller} → {larger}"] = 1e3 * more / (larger - smaller)
    finish("memory", results, arguments)


if __name__ == "__main__":
    main()
