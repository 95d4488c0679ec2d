#!/usr/bin/env python3
"""The command line: read the config, print the plan, run it."""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.settings import Settings
    from pipeline.terminal import Parser

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch is imported: docs/decisions/0006-idle-threads-sleep.md
HERE = Path(__file__).resolve().parent
STAGE_NAMES = (
    "phantoms", "biopsies", "cohort", "split", "preprocess", "features", "pretrain", "classify", "baselines", "report",
    "export", "predict",
)  # fmt: skip
ONLY_IF_NAMED = ("baselines", "export", "predict")  # nothing needs them
PAPER_PROTOCOL = {
    "pretrain.batch_size": "1", "pretrain.learning_rate": "1e-4", "pretrain.weight_decay": "5e-4",
    "pretrain.block_scale": "none", "pretrain.initialisation": "default", "pretrain.losses": "both",
    "pretrain.patience": "10", "pretrain.balance_classes": "false", "pretrain.embedding": "5", "pretrain.hidden": "20",
    "classify.batch_size": "1", "classify.learning_rate": "1e-4", "classify.weight_decay": "5e-4",
    "classify.hidden": "[512, 128]", "classify.aggregate": "mean", "classify.dropout": "0",
    "classify.patience": "10", "classify.balance_classes": "false", "classify.modality_dropout": "0",
}  # fmt: skip
DONE, BUG, BAD_INPUT, SOME_SCANS_FAILED = 0, 1, 2, 3
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
  python run_pipeline.py --config configs/adni.yaml --cohort my_cohort.csv --doctor
      whether this machine is ready for such a run, and what to mend
  python run_pipeline.py --model runs/mine/export/bundle --cohort tonight.csv --workspace runs/tonight
      answers for new patients, from whatever scans each has

any setting can be given as --section.name VALUE, or in the environment as HYPERMM_SECTION__NAME;
command line beats environment beats config file; --help-settings lists them all

exit codes: 0 all done; 3 done, but some scans failed (see failures.csv); 2 bad input or settings; 1 a bug;
130 stopped with Ctrl-C

Research software, not a medical device.
"""


def parser() -> "Parser":
    """The options; settings of stages are taken apart in `parse`."""
    from pipeline.terminal import Parser, typed_path

    options = Parser(
        prog="run_pipeline.py",
        description="HyperMM: classify patients from whatever scans they have.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = options.add_argument
    usual = f"default all but {', '.join(ONLY_IF_NAMED)}"
    add("--stages", metavar="A,B,…", help=f"which stages, of {','.join(STAGE_NAMES)}; {usual}")
    add(
        "--config",
        type=typed_path,
        metavar="FILE",
        help="default configs/demo.yaml; with --model the settings in the model",
    )
    add(
        "--cohort",
        type=typed_path,
        metavar="CSV",
        help="manifest, one row a scan; with cohort.layout breakhis a folder",
    )
    add("--model", type=typed_path, metavar="DIR", help="answer for the patients of --cohort with an exported model")
    told = "with --model: only one that was signed by this key, or by one in this folder; may be given again"
    add("--trusted", type=typed_path, action="append", metavar="KEY.pub", help=told)
    add("--workspace", type=typed_path, metavar="DIR", help="where everything goes; default runs/<name of the config>")
    add("--device", default="auto", help="auto (a GPU when there is one), cpu, cuda, cuda:1, mps")
    add("--executor", choices=("local", "dask", "slurm"), help="where scans are done; default local: in this process")
    add("--workers", metavar="N", help="Dask processes here, or Slurm jobs; default one per GPU, else per four cores")
    add("--worker-memory", metavar="8GB", help="of one worker; default an equal share of the machine's, Slurm 16GB")
    add("--scheduler", metavar="tcp://…", help="Dask workers that are running already (with --executor dask)")
    add("--limit", type=int, metavar="N", help="only N subjects (at least 6), for a quick look, in DIR-limit-N")
    add("--force", metavar="A,B,…", default="", help="run these stages though they are up to date")
    add("--new-splits", action="store_true", help="throw the frozen splits of this workspace away and deal anew")
    add("--only", metavar="A,B,…", help="methods of the stage baselines, such as hypermm,multi_cnn (baselines.only)")
    add(
        "--paper-protocol", action="store_true", help="pretrain and classify as published: batches of one, rate 1e-4, …"
    )
    add("--group-readable", action="store_true", help="let your group read what is written; else you alone")
    add("--dry-run", action="store_true", help="print the plan and stop")
    add("--explain", action="store_true", help="print the plan with every reason and stop")
    add("--quiet", action="store_true", help="only the plan, warnings and results")
    add("--help-settings", action="store_true", help="list all settings and stop")
    add("--doctor", action="store_true", help="check this machine for such a run, a line a check, and stop")
    add(
        "--fetch-weights",
        type=typed_path,
        metavar="DIR",
        help="with internet: bring all weights files into DIR, and stop",
    )
    add("--weights-from", type=typed_path, metavar="DIR", help="without internet: take the weights from such a DIR")
    return options


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Options, and settings of the form `--section.name VALUE` or `--section.name=VALUE`.

    Raises:
        InputError: an unknown option or a setting without a value.
    """
    from pipeline.runtime import InputError
    from pipeline.terminal import real_path

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
        settings["cohort.manifest"] = str(real_path(known.cohort))
    if known.model is not None:
        settings["predict.model"] = str(real_path(known.model))
    if known.trusted is not None:
        if known.model is None:
            raise InputError("--trusted is about an exported model: name it with --model DIR")
        settings["predict.trusted"] = json.dumps([str(real_path(place)) for place in known.trusted])
    for option, key in (("executor", "kind"), ("workers",) * 2, ("worker_memory",) * 2, ("scheduler",) * 2):
        if (value := getattr(known, option)) is not None:
            settings[f"executor.{key}"] = value
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
    from pipeline.last_resort import exit_code

    return exit_code(lambda: run(*parse(words)))


def run(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Load settings, plan, run, sum up."""
    from files.writing import FOR_THE_GROUP, PRIVATE, readable_by

    if options.doctor:  # before anything is imported that may be missing
        return consult_doctor(options, overrides)
    from pipeline import disk, journal, lock, settings, terminal, tracking
    from pipeline.artifacts import ArtifactError
    from pipeline.executors import clusters, handout
    from pipeline.last_resort import explained
    from pipeline.runtime import DISK_FULL, InputError
    from pipeline.stages import predict

    if options.help_settings:
        terminal.say_as_it_stands(settings.describe_settings())
        return DONE
    config = load(options, overrides)
    if options.fetch_weights is not None:
        return fetch_weights(options.fetch_weights, config.features.backbone)
    usual = ["predict"] if options.model else [name for name in STAGE_NAMES if name not in ONLY_IF_NAMED]
    requested = usual if options.stages is None else stage_list(options.stages, "--stages")
    if not requested:
        raise InputError(f"--stages names no stage. Stages: {', '.join(STAGE_NAMES)}")
    forced = stage_list(options.force, "--force") + (["split"] if options.new_splits else [])
    requested += [name for name in forced if name not in requested]
    workspace = place_of(options, config.name)
    disk.check_path(workspace)
    tracking.ready(config.tracking)
    if "predict" in requested:
        predict.check_settings(config)

    from pipeline import scheduler

    dry = options.dry_run or options.explain
    if dry:
        terminal.print_plan(scheduler.make_plan(requested, config, workspace, force=forced), explain=options.explain)
        if config.executor.kind == "slurm":
            script = clusters.slurm_script(config.executor, workspace)
            terminal.say_as_it_stands(f"\neach worker's job for Slurm:\n{script}")
        return DONE
    rights = readable_by(FOR_THE_GROUP if options.group_readable else PRIVATE)
    with rights, lock.locked(workspace), journal.logging_to(workspace, quiet=options.quiet):
        if options.new_splits:
            scheduler.forget_splits(workspace)
        steps = scheduler.make_plan(requested, config, workspace, force=forced)
        terminal.print_plan(steps)
        if "predict" in requested:
            journal.log.info("%s", predict.signature_words(config.predict))
        to_come = [step.stage.name for step in steps if step.state != "up to date"]
        if short := disk.shortage(config, workspace, to_come):
            journal.log.warning(short)
        before = scheduler.save_settings(config, workspace)
        try:
            elsewhere = config.executor.kind == "slurm" or config.executor.scheduler is not None
            scheduler.check_device(steps, options.device, elsewhere=elsewhere)
            with handout.opened(config.executor, workspace, device=options.device) as executor:
                scheduler.run_plan(steps, config, workspace, device=options.device, force=forced, executor=executor)
            tracking.track(config.tracking, workspace)
        except (InputError, ArtifactError) as error:
            journal.log.debug("stopped", exc_info=error)
            scheduler.restore_settings(before, workspace)
            raise InputError(str(error)) from error
        except Exception as error:  # noqa: BLE001 - the last stop: what nobody foresaw is logged and named a bug
            if told := explained(error):
                journal.log.debug("stopped", exc_info=error)
                full = isinstance(error, OSError) and error.errno in DISK_FULL
                needed = f": {disk.when_full(config, workspace, to_come)}" if full else ""
                raise InputError(told + needed) from error
            journal.log.exception("a bug: please report it with this log, %s", journal.current_file(workspace))
            return BUG
        finally:
            failures, notes = collected(config, workspace)
    terminal.print_summary(steps, failures, notes, workspace)
    return SOME_SCANS_FAILED if failures else DONE


def collected(config: "Settings", workspace: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Failures and notes of all stages; the failures are in `failures.csv` then, if it can be written."""
    from pipeline import journal, scheduler

    failures, notes = scheduler.collect(workspace)
    try:
        scheduler.write_failures(failures, workspace, for_spreadsheets=config.report.csv_safe)
    except OSError as error:  # the disk may be full
        journal.log.warning("failures.csv could not be written: %s", error)
    return failures, notes


def load(options: argparse.Namespace, overrides: dict[str, str]) -> "Settings":
    """The settings of the config file or the model, environment and command line.

    Raises:
        InputError: they are wrong, or a folder named is not there.
    """
    from pipeline.runtime import InputError
    from pipeline.settings import load_settings, settings_of_model

    if options.model is not None and not options.model.is_dir():
        raise InputError(f"there is no model {options.model}; --model takes the folder that --stages export made")
    standard = HERE / "configs" / "demo.yaml"
    if options.model is not None:
        standard = settings_of_model(options.model, options.trusted or ())
    config = load_settings(options.config or standard, overrides)
    if options.weights_from is not None:
        from pipeline.weights_folder import use_weights_from

        config = use_weights_from(config, options.weights_from)
    return config


def place_of(options: argparse.Namespace, name: str) -> Path:
    """The workspace: as typed, or by the name of the settings.

    Raises:
        InputError: it is a folder with something else in it.
    """
    from pipeline.disk import check_place
    from pipeline.terminal import real_path

    workspace = real_path(options.workspace or Path("runs") / name)
    check_place(workspace, stages=STAGE_NAMES)
    if options.limit is not None:  # the splits of a few must not become those of all
        workspace = workspace.with_name(f"{workspace.name}-limit-{options.limit}")
        check_place(workspace, stages=STAGE_NAMES)
    return workspace


def consult_doctor(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Print the doctor's findings; exit code 2 if a run cannot go well."""
    from pipeline.doctor import Patient, examine
    from pipeline.terminal import say

    failed = False
    for finding in examine(Patient(lambda: load(options, overrides), lambda name: place_of(options, name),
                                   options.device)):  # fmt: skip
        say(str(finding))
        failed |= finding.status == "fail"
    return BAD_INPUT if failed else DONE


def fetch_weights(folder: Path, backbone: str) -> int:
    """Fill a folder with all weights files, a line each; exit code 2 if one could not be had."""
    from pipeline import weights_folder
    from pipeline.terminal import say

    whole = True
    for ok, line in weights_folder.fetch_weights(folder, backbone):
        say(f"{'ok' if ok else 'fail':<4}  {line}")
        whole &= ok
    told = "copy it, and type --weights-from DIR there" if whole else "not whole; type the same again to go on"
    say(f"weights: {folder.absolute()}; {told}")
    return DONE if whole else BAD_INPUT


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # a terminal or a mail of cron without UTF-8 is no reason to stop
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    from pipeline.terminal import show_warnings_safely

    show_warnings_safely()
    sys.exit(main(sys.argv[1:]))
