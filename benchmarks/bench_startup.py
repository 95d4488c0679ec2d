"""How long before something happens: --help, --dry-run and a rerun with nothing to do, on a large finished run."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import simulated
from benchmarks.common import finish, in_turns, options
from pipeline.core.provenance import REPOSITORY
from pipeline.store.tables import CohortTables


def main() -> None:
    """Run it."""
    parser = options(__doc__ or "")
    parser.add_argument("--kept", type=Path, help="what bench_memory --keep left; else a run is made first")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.kept or Path(temporary)
        if arguments.kept is None:
            manifest = simulated.make_cohort(folder / "pictures", 20 if arguments.quick else 5_000)
            simulated.run_stage("report", manifest, folder / "run")  # and what it needs: all
        argv = ["--config", str(folder / "run.yaml"), "--cohort", str(folder / "pictures" / "manifest.csv")]
        argv += ["--workspace", str(folder / "run"), "--device", "cpu"]

        def call(*more: str) -> None:
            subprocess.run(
                [sys.executable, "run_pipeline.py", *more], cwd=REPOSITORY, check=True, capture_output=True, text=True
            )

        seconds = in_turns(
            {
                "--help": lambda: call("--help"),
                "--dry-run": lambda: call(*argv, "--dry-run"),
                "everything up to date": lambda: call(*argv),
            },
            0 if arguments.quick else 5,
        )
        scans = len(CohortTables(folder / "run" / "cohort").scans())
    results: dict[str, Any] = {"scans": scans} | {f"seconds, {name}": value for name, value in seconds.items()}
    finish("startup", results, arguments)


if __name__ == "__main__":
    main()
