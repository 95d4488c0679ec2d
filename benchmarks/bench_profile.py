"""Where does the time of every stage go? The demo cohort's first subjects, each stage under Python's profiler.

Only the calling thread is profiled: what reader and writer threads do beside it costs no time of its own unless the
stage waits for them, which shows as a lock.
"""

import contextlib
import cProfile
import io
import pstats
import tempfile
from typing import Any

from benchmarks.common import finish, options
from pipeline.cli.main import main as run

STAGES = ("cohort", "split", "preprocess", "features", "pretrain", "classify", "confounding", "report")
SHOWN = 6  # functions a stage


def profile(stage: str, argv: list[str]) -> dict[str, Any]:
    """Seconds of one stage, and the functions that used most of them, without what they call."""
    profiler = cProfile.Profile()
    with contextlib.redirect_stdout(io.StringIO()):
        profiler.enable()
        run([*argv, "--stages", stage])
        profiler.disable()
    stats = pstats.Stats(profiler)
    total = stats.total_tt  # type: ignore[attr-defined]
    rows = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:SHOWN]  # type: ignore[attr-defined]
    spent = ", ".join(f"{_readable(function_key)} {100 * row[2] / total:.0f} %" for function_key, row in rows)
    return {f"{stage}: seconds": round(total, 2), f"{stage}: own time": spent}


def _readable(function_key: tuple[str, int, str]) -> str:
    file, _, function = function_key
    if file == "~":  # built in
        return function.strip("<>").replace("built-in method ", "").replace("method ", "").split(" of ")[0]
    return f"{file.rsplit('/', 1)[-1]}:{function}"


def main() -> None:
    """Run it."""
    arguments = options(__doc__ or "").parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        argv = ["--workspace", folder, "--limit", "6" if arguments.quick else "12", "--quiet", "--device", "cpu"]
        for stage in STAGES:
            results |= profile(stage, argv)
    finish("profile", results, arguments)


if __name__ == "__main__":
    main()
