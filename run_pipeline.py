#!/usr/bin/env python3
"""The command line: read the config, print the plan, run it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.scheduler import Step

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch is imported: docs/decisions/0006-idle-threads-sleep.md
HERE = Path(__file__).resolve().parent
STAGE_NAMES = (
    "phantoms", "biopsies", "cohort", "split", "preprocess", "features", "pretrain", "classify", "baselines", "report",
)  # fmt: skip
ONLY_IF_NAMED = ("baselines",)  # long, and nothing needs it
PAPER_PROTOCOL = {
    "pretrain.batch_size": "1", "pretrain.learning_rate": "1e-4", "pretrain.weight_decay": "5e-4",
    "pretrain.block_scale": "none", "pretrain.initialisation": "default", "pretrain.losses": "both",
    "classify.batch_size": "1", "classify.learning_rate": "1e-4", "classify.weight_decay": "5e-4",
    "classify.hidden": "[512, 128]", "classify.aggregate": "mean",
}  # fmt: skip
DONE, BUG, BAD_INPUT, SOME_SCANS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
MOST_ROWS = 16  # subsets of modalities shown on the terminal; beyond, single ones and all
EXAMPLES = """\
examples:
  python run_pipeline.py --stages preprocess,pretrain,classify
      the demo cohort; what a stage needs and is missing is run too
  python run_pipeline.py --config configs/adni.yaml --cohort my_cohort.csv --workspace runs/mine
      your own patients, all stages
  python run_pipeline.py --stages classify --classify.aggregate max --dry-run
      what would run after a change of settings, and why
  python run_pipeline.py --stages baselines,report --only hypermm,multi_cnn
      other methods on the same patients and splits, compared on one page

any setting can be given as --section.name VALUE, or in the environment as HYPERMM_SECTION__NAME;
command line beats environment beats config file; --help-settings lists them all

exit codes: 0 all done; 3 done, but some scans failed (see failures.csv); 2 bad input or settings; 1 a bug;
130 stopped with Ctrl-C

Research software, not a medical device.
"""


def parser() -> argparse.ArgumentParser:
    """The options; settings of stages are taken apart in `parse`."""
    options = argparse.ArgumentParser(
        prog="run_pipeline.py",
        description="HyperMM: classify patients from whatever scans they have.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = options.add_argument
    add("--stages", metavar="A,B,…", help=f"which stages, of {','.join(STAGE_NAMES)}; default all but baselines")
    add("--config", type=Path, metavar="FILE", default=HERE / "configs" / "demo.yaml", help="default configs/demo.yaml")
    add(
        "--cohort",
        metavar="CSV",
        help="manifest, one row a scan; with cohort.layout breakhis a folder",
    )
    add("--workspace", type=Path, metavar="DIR", help="where everything goes; default runs/<name of the config>")
    add("--device", default="auto", help="auto (a GPU when there is one), cpu, cuda, cuda:1, mps")
    add("--limit", type=int, metavar="N", help="only N subjects (at least 6), for a quick look, in DIR-limit-N")
    add("--force", metavar="A,B,…", default="", help="run these stages though they are up to date")
    add("--new-splits", action="store_true", help="throw the frozen splits of this workspace away and deal anew")
    add("--only", metavar="A,B,…", help="methods of the stage baselines, such as hypermm,multi_cnn (baselines.only)")
    add(
        "--paper-protocol", action="store_true", help="pretrain and classify as published: batches of one, rate 1e-4, …"
    )
    add("--dry-run", action="store_true", help="print the plan and stop")
    add("--explain", action="store_true", help="print the plan with every reason and stop")
    add("--quiet", action="store_true", help="only the plan, warnings and results")
    add("--help-settings", action="store_true", help="list all settings and stop")
    return options


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Options, and settings of the form `--section.name VALUE` or `--section.name=VALUE`.

    Raises:
        InputError: an unknown option or a setting without a value.
    """
    from pipeline.runtime import InputError

    known, rest = parser().parse_known_args(words)
    settings: dict[str, str] = {}
    while rest:
        word = rest.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or "." not in key:
            import difflib

            options = [o for action in parser()._actions for o in action.option_strings]
            near = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
            raise InputError(f"there is no option {word}" + (f"; did you mean {near[0]}?" if near else "; see --help"))
        if not equals:
            if not rest:
                raise InputError(f"--{key} needs a value")
            value = rest.pop(0)
        settings[key] = value
    if known.only is not None:
        settings["baselines.only"] = f"[{known.only}]"
    if known.paper_protocol:
        settings = PAPER_PROTOCOL | settings
    if known.cohort is not None:
        settings["cohort.manifest"] = str(Path(known.cohort).resolve())
    if known.limit is not None:
        settings["cohort.limit"] = str(known.limit)
    return known, settings


def stage_list(text: str, option: str) -> list[str]:
    """Stage names from `a,b,c`.

    Raises:
        InputError: no such stage.
    """
    import difflib

    from pipeline.runtime import InputError

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in STAGE_NAMES:
            near = difflib.get_close_matches(name, STAGE_NAMES, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise InputError(f"{option}: there is no stage {name!r}{hint} Stages: {', '.join(STAGE_NAMES)}")
    return names


def main(words: Sequence[str]) -> int:
    """Run what is asked for; returns the exit code."""
    from pipeline.runtime import InputError

    try:
        return run(*parse(words))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on where it was", file=sys.stderr)
        return INTERRUPTED


def run(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Load settings, plan, run, sum up."""
    import contextlib

    from pipeline import journal, settings
    from pipeline.artifacts import ArtifactError
    from pipeline.runtime import DISK_FULL, NOT_ALLOWED, InputError

    if options.help_settings:
        print(settings.describe_settings())
        return DONE
    config = settings.load_settings(options.config, overrides)
    usual = [name for name in STAGE_NAMES if name not in ONLY_IF_NAMED]
    requested = usual if options.stages is None else stage_list(options.stages, "--stages")
    if not requested:
        raise InputError(f"--stages names no stage. Stages: {', '.join(STAGE_NAMES)}")
    forced = stage_list(options.force, "--force") + (["split"] if options.new_splits else [])
    requested += [name for name in forced if name not in requested]
    workspace = (options.workspace or Path("runs") / config.name).resolve()
    if options.limit is not None:  # the splits of a few must not become those of all
        workspace = workspace.with_name(f"{workspace.name}-limit-{options.limit}")

    from pipeline import scheduler

    dry = options.dry_run or options.explain
    if dry:
        print_plan(scheduler.make_plan(requested, config, workspace, force=forced), explain=options.explain)
        return DONE
    with scheduler.locked(workspace), journal.logging_to(workspace, quiet=options.quiet):
        if options.new_splits:
            scheduler.forget_splits(workspace)
        steps = scheduler.make_plan(requested, config, workspace, force=forced)
        print_plan(steps)
        before = scheduler.save_settings(config, workspace)
        try:
            scheduler.check_device(steps, options.device)
            scheduler.run_plan(steps, config, workspace, device=options.device, force=forced)
        except (InputError, ArtifactError) as error:
            journal.log.debug("stopped", exc_info=error)
            scheduler.restore_settings(before, workspace)
            raise InputError(str(error)) from error
        except Exception as error:  # noqa: BLE001 - the last stop: what nobody foresaw is logged and named a bug
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise InputError(f"the disk is full ({error}); free some space and run again") from error
            if isinstance(error, OSError) and error.errno in NOT_ALLOWED:
                raise InputError(f"not allowed: {error}; mend the rights or name another --workspace") from error
            journal.log.exception("a bug: please report it with this log, %s", journal.current_file(workspace))
            return BUG
        finally:
            failures, notes = scheduler.collect(workspace)
            with contextlib.suppress(OSError):  # the disk may be full
                scheduler.write_failures(failures, workspace)
    print_summary(steps, failures, notes, workspace)
    return SOME_SCANS_FAILED if failures else DONE


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
        print(f"{len(failures)} scans could not be used; see {workspace / 'failures.csv'}")
        for failure in failures[:5]:
            print(f"  {failure['stage']}: {failure['scan']}: {failure['reason']}")
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
