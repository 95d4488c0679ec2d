"""Run the pipeline from the command line: settings, plan, stages, summary."""

import argparse
from pathlib import Path

from console.errors import DISK_FULL, InputError
from console.exit_codes import BAD_INPUT, BUG, DONE, SOME_SCANS_FAILED, explained
from console.messages import say, say_as_it_stands
from console.parser import real_path
from files.writing import FOR_THE_GROUP, PRIVATE, readable_by
from pipeline.cli import lock, run_log, tracking
from pipeline.cli.forget import forget
from pipeline.cli.options import ONLY_IF_NAMED, STAGE_NAMES, stage_list
from pipeline.cli.summary import print_plan, print_summary
from pipeline.cli.workspace import (
    check_format,
    collect,
    restore_settings,
    save_settings,
    set_splits_aside,
    write_failures,
    write_format,
)
from pipeline.core.provenance import REPOSITORY
from pipeline.doctor import disk
from pipeline.doctor.offline_weights import fetch_weights as fill_folder
from pipeline.doctor.offline_weights import use_weights_from
from pipeline.executors.opened import executor_of, opened
from pipeline.runner.plan import make_plan
from pipeline.runner.run import check_device, run_plan
from pipeline.runner.stage import named
from pipeline.settings import Settings, describe_settings, load_settings
from pipeline.specs.registry import STAGES
from pipeline.store.base import ArtifactError
from pipeline.store.update import expired_calibration


def run(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Load the settings, plan and run the stages, print a summary and return the exit code."""
    if options.help_settings:
        say_as_it_stands(describe_settings())
        return DONE
    config = load(options, overrides)
    if options.fetch_weights is not None:
        return fetch_weights(options.fetch_weights, config.features.backbone)
    if options.forget is not None:
        return forget_subject(options, workspace_path(options, config.name))
    usual = ["predict"] if options.model else [name for name in STAGE_NAMES if name not in ONLY_IF_NAMED]
    requested = usual if options.stages is None else stage_list(options.stages, "--stages")
    if not requested:
        raise InputError(f"--stages names no stage. Stages: {', '.join(STAGE_NAMES)}")
    forced = dict.fromkeys(stage_list(options.force, "--force"), "--force")
    forced |= {"split": "--new-splits"} if options.new_splits else {}
    requested += [name for name in forced if name not in requested]
    workspace = workspace_path(options, config.name)
    disk.check_path(workspace)
    check_format(workspace)
    if options.model is not None and options.stages is None and (workspace / "pretrain" / "manifest.json").exists():
        raise InputError(
            f"{workspace} holds a model that was trained there; new patients would take the place of its cohort. Name "
            "another --workspace"
        )
    tracking.ready(config.tracking)
    if "predict" in requested:
        named("pipeline.stages.predict:check_settings")(config)

    dry = options.dry_run or options.explain
    if dry:
        print_plan(make_plan(STAGES, requested, config, workspace, force=forced), explain=options.explain)
        if description := executor_of(config.executor, workspace, device=options.device).describe():
            say_as_it_stands(f"\n{description}")
        return DONE
    rights = readable_by(FOR_THE_GROUP if options.group_readable else PRIVATE)
    with rights, lock.locked(workspace), run_log.logging_to(workspace, quiet=options.quiet):
        steps = make_plan(STAGES, requested, config, workspace, force=forced)
        print_plan(steps)
        if "predict" in requested:
            run_log.log.info("%s", named("pipeline.stages.predict:describe_signature")(config.predict))
        to_come = [step.stage.name for step in steps if step.state != "up to date"]
        fits, room = disk.check_room(config, workspace, to_come)
        if fits is False:
            hint = "What is finished is kept; free some space, or name another --workspace"
            run_log.log.warning("the disk may become full: %s. %s", room, hint)
        write_format(workspace)
        if options.new_splits:
            set_splits_aside(workspace)
        before = save_settings(config, workspace)
        try:
            with opened(config.executor, workspace, device=options.device) as executor:
                check_device(steps, options.device, elsewhere=executor.elsewhere)
                run_plan(steps, config, workspace, device=options.device, force=list(forced), executor=executor)
            tracking.track(config.tracking, workspace)
        except (InputError, ArtifactError) as error:
            run_log.log.debug("stopped", exc_info=error)
            restore_settings(before, workspace)
            raise InputError(str(error)) from error
        except Exception as error:  # noqa: BLE001 - any unexpected error is logged and reported as a bug
            if message := explained(error):
                run_log.log.debug("stopped", exc_info=error)
                full = isinstance(error, OSError) and error.errno in DISK_FULL
                fits, room = disk.check_room(config, workspace, to_come) if full else (None, "")
                quota = ", so a quota or a limit on file sizes may be what is exceeded" if fits else ""
                raise InputError(message + f": {room}{quota}" * full) from error
            run_log.log.exception("a bug: please report it with this log, %s", run_log.current_file(workspace))
            return BUG
        finally:
            failures, notes = collected(config, workspace)
    print_summary(steps, failures, notes, workspace)
    return SOME_SCANS_FAILED if failures else DONE


def forget_subject(options: argparse.Namespace, workspace: Path) -> int:
    """Take a subject out of the workspace, and print what was done and what is left to do.

    Raises:
        InputError: there is no such workspace or subject, or stages are to be run too.
    """
    if options.stages is not None or options.force or options.new_splits:
        raise InputError("--forget runs no stage; take the subject out of the manifest, and run the stages after it")
    if not (workspace / "settings.yaml").is_file():
        raise InputError(f"{workspace} is no workspace; name it with --workspace")
    check_format(workspace)
    rights = readable_by(FOR_THE_GROUP if options.group_readable else PRIVATE)
    with rights, lock.locked(workspace):
        for line in forget(workspace, options.forget, [] if options.model is None else [options.model]):
            say(line)
    return DONE


def collected(config: Settings, workspace: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Return failures and notes of all stages, and write the failures to `failures.csv` if possible."""
    failures, notes = collect(workspace)
    notes += [f"export: {sentence}" for sentence in [expired_calibration(workspace)] if sentence]
    try:
        write_failures(failures, workspace, for_spreadsheets=config.report.csv_safe)
    except OSError as error:  # the disk may be full
        run_log.log.warning("failures.csv could not be written: %s", error)
    return failures, notes


def load(options: argparse.Namespace, overrides: dict[str, str]) -> Settings:
    """Load the settings from the config file or the model, the environment and the command line.

    Raises:
        InputError: a setting is wrong, or a folder does not exist.
    """
    if options.model is not None and not options.model.is_dir():
        raise InputError(f"there is no model {options.model}; --model takes the folder that --stages export made")
    standard = REPOSITORY / "configs" / "demo.yaml"
    if options.model is not None:
        settings_of_model = named("pipeline.deployment.bundle_settings:settings_of_model")
        standard = settings_of_model(options.model, options.trusted or ())
    config = load_settings(options.config or standard, overrides)
    if options.weights_from is not None:
        config = use_weights_from(config, options.weights_from)
    return config


def workspace_path(options: argparse.Namespace, name: str) -> Path:
    """Return the path of the workspace: as given, or by the name of the settings.

    Raises:
        InputError: the folder holds something else than a workspace.
    """
    workspace = real_path(options.workspace or Path("runs") / name)
    disk.check_folder(workspace, stages=STAGE_NAMES)
    if options.limit is not None:  # the splits of a subset of patients must not become those of all
        workspace = workspace.with_name(f"{workspace.name}-limit-{options.limit}")
        disk.check_folder(workspace, stages=STAGE_NAMES)
    return workspace


def fetch_weights(folder: Path, backbone: str) -> int:
    """Fill a folder with all weights files and print a line for each; return exit code 2 if one is missing."""
    complete = True
    for ok, line in fill_folder(folder, backbone):
        say(f"{'ok' if ok else 'fail':<4}  {line}")
        complete &= ok
    hint = "copy it, and use --weights-from DIR there" if complete else "incomplete; run the same command again"
    say(f"weights: {folder.absolute()}; {hint}")
    return DONE if complete else BAD_INPUT
