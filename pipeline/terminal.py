"""What the command line says: the plan, the table of test results, and where things are."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.scheduler import Step

MOST_ROWS = 16  # subsets of modalities shown; beyond, single ones and all


def print_plan(steps: "Sequence[Step]", *, explain: bool = False) -> None:
    """One line a stage; with `explain`, every reason."""
    print("plan:")
    for step in steps:
        reasons = step.reasons or ("nothing changed since it ran",)
        shown = "; ".join(reasons) if not explain else ("\n" + " " * 25).join(reasons)
        print(f"  {step.stage.name:<11} {step.state:<11} {shown}")


def print_summary(steps: "Sequence[Step]", failures: list[dict[str, str]], notes: list[str], workspace: Path) -> None:
    """The table of test results, what failed, and where things are."""
    from pipeline.artifacts import read_json

    ran = {step.stage.name for step in steps}
    metrics: dict[str, Any] | None = read_json(workspace / "classify" / "metrics.json") if "classify" in ran else None
    if metrics:
        print_metrics(metrics, workspace)
    for note in notes:
        print(f"note: {note}")
    if failures:
        methods = sum(failure["stage"] == "baselines" for failure in failures)
        parts = [(len(failures) - methods, "scans could not be used"), (methods, "comparators could not be fitted")]
        told = " and ".join(f"{count} {words}" for count, words in parts if count)
        print(f"{told}; see {workspace / 'failures.csv'}")
        for failure in failures[:5]:
            print(f"  {failure['stage']}: {failure['scan']}: {failure['reason']}")
    if "predict" in ran:
        print(f"answers: {workspace / 'predict' / 'index.html'}")
    if "report" in ran:
        print(f"report: {workspace / 'report' / 'report.html'}")
    print(f"workspace: {workspace}")


def print_metrics(metrics: dict[str, Any], workspace: Path) -> None:
    """Test results as a table: all subjects, then every subset of modalities."""
    import csv

    from rich.console import Console
    from rich.table import Table

    def cell(mean: Any, std: Any, low: Any, high: Any) -> str:
        if mean in (None, ""):
            return "n/a"
        spread = f" ± {float(std):.2f}" if std not in (None, "") else ""
        interval = f" [{float(low):.2f}, {float(high):.2f}]" if low not in (None, "") else ""
        return f"{float(mean):.2f}{spread}{interval}"

    console = Console()
    tested = f"test: {metrics['test_predictions']} predictions of {metrics['test_subjects']} subjects"
    table = Table(
        title=f"{tested}, {metrics['repeats']} repeats",
        caption="mean ± std over repeats [95 % interval over subjects]",
    )
    table.add_column("metric")
    columns = [("threshold_half", "threshold 0.5"), ("threshold_validation", "threshold from validation")]
    columns = [(key, words) for key, words in columns if key in metrics]
    for _, words in columns:
        table.add_column(words)
    for name in metrics["threshold_half"]:
        values = [metrics[key][name] for key, _ in columns]
        table.add_row(name, *(cell(v["mean"], v["std"], v["low"], v["high"]) for v in values))
    console.print(table)
    subsets = Table(
        title="the same model on every subset of modalities, threshold 0.5",
        caption="any: subjects with one of them; complete: the subjects with all, so rows compare",
    )
    for words in ("modalities", "subjects", "n", "AUC", "balanced accuracy"):
        subsets.add_column(words)
    with (workspace / "classify" / "subsets.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["threshold"] == "0.5"]
    largest = max(row["modalities"].count("+") for row in rows)
    for row in rows:
        if len(rows) <= MOST_ROWS or row["modalities"].count("+") in (0, largest):
            figures = [
                cell(row[f"{m}_mean"], None, row[f"{m}_low"], row[f"{m}_high"]) for m in ("auc", "balanced_accuracy")
            ]
            subsets.add_row(row["modalities"], row["subjects"], row["n"], *figures)
    console.print(subsets)
    if subsets.row_count < len(rows):
        print(f"{len(rows) - subsets.row_count} more subsets are in {workspace / 'classify' / 'subsets.csv'}")
