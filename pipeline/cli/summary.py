"""Console output: the plan, the tables of test results, and the paths of the results.

All output goes through `say` or `rich.text.Text`, so that names from manifests, models and workspaces are neither
control characters nor markup.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from console.errors import InputError
from console.messages import say
from files.printable import printable
from pipeline.runner.plan import Step
from pipeline.store.base import read_json

MOST_ROWS = 16  # subsets of modalities shown; with more, only single modalities and all together


def print_plan(steps: Sequence[Step], *, explain: bool = False) -> None:
    """Print one line per stage; with `explain`, one line per reason."""
    say("plan:")
    for step in steps:
        reasons = step.reasons or ("nothing changed since it ran",)
        first, *others = reasons if explain else ("; ".join(reasons),)
        say(f"  {step.stage.name:<11} {step.state:<11} {first}")
        for reason in others:
            say(" " * 25 + reason)


def print_summary(steps: Sequence[Step], failures: list[dict[str, str]], notes: list[str], workspace: Path) -> None:
    """Print the tables of test results, the failures, the notes and the paths of the results."""
    ran = {step.stage.name for step in steps}
    path = workspace / "classify" / "metrics.json"
    if "classify" in ran and path.exists():
        try:
            print_metrics(read_json(path) or {}, workspace)
        except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
            raise InputError(
                f"the results in {workspace / 'classify'} are damaged ({type(error).__name__}: {error}); run again "
                "with --force classify"
            ) from error
    for note in notes:
        say(f"note: {note}")
    if failures:
        methods = sum(failure["stage"] == "baselines" for failure in failures)
        counts = [(len(failures) - methods, "scans could not be used"), (methods, "baselines could not be fitted")]
        summary = " and ".join(f"{count} {text}" for count, text in counts if count)
        say(f"{summary}; see {workspace / 'failures.csv'}")
        for failure in failures[:5]:
            say(f"  {failure['stage']}: {failure['scan']}: {failure['reason']}")
    if "predict" in ran:
        say(f"predictions: {workspace / 'predict' / 'index.html'}")
    if "report" in ran:
        say(f"report: {workspace / 'report' / 'report.html'}")
    say(f"workspace: {workspace}")


def print_metrics(metrics: dict[str, Any], workspace: Path) -> None:
    """Print test results as tables: all subjects, then every subset of modalities.

    Raises:
        LookupError, TypeError, ValueError, AttributeError, OSError: the files are not as `classify` writes them.
    """

    def plain(text: str) -> Text:
        return Text(printable(text))

    def cell(mean: Any, std: Any, low: Any, high: Any) -> str:
        if mean in (None, ""):
            return "n/a"
        spread = f" ± {float(std):.2f}" if std not in (None, "") else ""
        interval = f" [{float(low):.2f}, {float(high):.2f}]" if low not in (None, "") else ""
        return f"{float(mean):.2f}{spread}{interval}"

    console = Console()
    tested = f"test: {metrics['test_predictions']} predictions of {metrics['test_subjects']} subjects"
    table = Table(
        title=escape(printable(f"{tested}, {metrics['repeats']} repeats")),
        caption="mean ± std over repeats [95 % interval]",
    )
    table.add_column("metric")
    columns = [("threshold_half", "threshold 0.5"), ("threshold_validation", "threshold from validation")]
    columns = [(key, heading) for key, heading in columns if key in metrics]
    for _, heading in columns:
        table.add_column(heading)
    for name in metrics["threshold_half"]:
        values = [metrics[key][name] for key, _ in columns]
        table.add_row(plain(name), *(cell(v["mean"], v["std"], v["low"], v["high"]) for v in values))
    console.print(table)
    subsets = Table(
        title="the same model on every subset of modalities, threshold 0.5",
        caption="any: subjects with one of them; complete: the subjects with all, so rows compare",
    )
    for heading in ("modalities", "subjects", "n", "AUC", "balanced accuracy"):
        subsets.add_column(heading)
    with (workspace / "classify" / "subsets.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["threshold"] == "0.5"]
    largest = max(row["modalities"].count("+") for row in rows)
    for row in rows:
        if len(rows) <= MOST_ROWS or row["modalities"].count("+") in (0, largest):
            figures = [
                cell(row[f"{m}_mean"], None, row[f"{m}_low"], row[f"{m}_high"]) for m in ("auc", "balanced_accuracy")
            ]
            subsets.add_row(*map(plain, (row["modalities"], row["subjects"], row["n"])), *figures)
    console.print(subsets)
    if subsets.row_count < len(rows):
        say(f"{len(rows) - subsets.row_count} more subsets are in {workspace / 'classify' / 'subsets.csv'}")
