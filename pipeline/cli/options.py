"""Options of run_pipeline.py and the settings that they set."""

import argparse
import difflib
import json
from collections.abc import Sequence

from console.errors import InputError
from console.parser import Parser, real_path, typed_path
from pipeline.executors.registry import EXECUTORS

STAGE_NAMES = (
    "cohort", "split", "preprocess", "features", "pretrain", "classify", "baselines", "contribute", "joint", "impute",
    "hypothesise", "update", "synthesise", "judge", "confounding", "recycle", "report", "export", "predict",
)  # fmt: skip
ONLY_IF_NAMED = (
    "baselines", "contribute", "joint", "impute", "hypothesise", "update", "synthesise", "judge", "recycle", "export",
    "predict",
)  # fmt: skip
PAPER_PROTOCOL = {
    "pretrain.batch_size": "1", "pretrain.learning_rate": "1e-4", "pretrain.weight_decay": "5e-4",
    "pretrain.feature_scale": "none", "pretrain.initialisation": "default", "pretrain.losses": "both",
    "pretrain.stop_on": "loss",
    "pretrain.patience": "10", "pretrain.balance_classes": "false", "pretrain.embedding": "5", "pretrain.hidden": "20",
    "classify.fit": "epochs",
    "classify.batch_size": "1", "classify.learning_rate": "1e-4", "classify.weight_decay": "5e-4",
    "classify.hidden": "[512, 128]", "classify.aggregate": "mean", "classify.dropout": "0",
    "classify.patience": "10", "classify.balance_classes": "false", "classify.modality_dropout": "0",
}  # fmt: skip
EXAMPLES = """\
examples:
  python run_pipeline.py --stages preprocess,pretrain,classify
      the demo cohort; missing inputs of a stage are run too
  python run_pipeline.py --config configs/adni.yaml --cohort my_cohort.csv --workspace runs/mine
      your own patients, all stages
  python run_pipeline.py --stages classify --classify.aggregate max --dry-run
      which stages would run after a change of settings, and why
  python run_pipeline.py --stages baselines,report --only hypermm,multi_cnn
      other methods on the same patients and splits, compared on one page
  python run_pipeline.py --config configs/adni.yaml --cohort my_cohort.csv --doctor
      check whether this machine is ready for such a run
  python run_pipeline.py --model runs/mine/export/bundle --cohort new.csv --workspace runs/new
      predictions for new patients, from the scans that each of them has

any setting can be given as --section.name VALUE, or in the environment as HYPERMM_SECTION__NAME;
command line beats environment beats config file; --help-settings lists them all

exit codes: 0 all done; 3 done, but some scans failed (see failures.csv); 2 bad input or settings; 1 a bug;
130 stopped with Ctrl-C

Research software, not a medical device.
"""


def parser() -> Parser:
    """Return the parser of the options; `parse` also reads the settings of stages."""
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
    add("--model", type=typed_path, metavar="DIR", help="predict for the patients of --cohort with an exported model")
    help_text = "with --model: only one that was signed by this key, or by one in this folder; may be given again"
    add("--trusted", type=typed_path, action="append", metavar="KEY.pub", help=help_text)
    add("--workspace", type=typed_path, metavar="DIR", help="where everything goes; default runs/<name of the config>")
    add("--device", default="auto", help="auto (a GPU when there is one), cpu, cuda, cuda:1, mps")
    add("--executor", choices=tuple(EXECUTORS), help="where scans are done; default local: in this process")
    add("--workers", metavar="N", help="Dask processes here, or Slurm jobs; default one per GPU, else per four cores")
    add("--worker-memory", metavar="8GB", help="of one worker; default an equal share of the machine's, Slurm 16GB")
    add("--scheduler", metavar="tcp://…", help="Dask workers that are running already (with --executor dask)")
    add("--limit", type=int, metavar="N", help="only N subjects (at least 6), for a quick look, in DIR-limit-N")
    add("--force", metavar="A,B,…", default="", help="run these stages though they are up to date")
    add("--new-splits", action="store_true", help="discard the frozen splits of this workspace and make new ones")
    add("--only", metavar="A,B,…", help="methods of the stage baselines, such as hypermm,multi_cnn (baselines.only)")
    add(
        "--paper-protocol", action="store_true", help="pretrain and classify as published: batches of one, rate 1e-4, …"
    )
    add("--accept-copies", action="store_true", help="release synthetic patients though too many are copies")
    add(
        "--forget",
        metavar="SUBJECT",
        help="take a patient out of the workspace: sums, features, previews, and what was learnt from the patient; "
        "with --model also ask that exported model",
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


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Parse options, and settings of the form `--section.name VALUE` or `--section.name=VALUE`.

    Raises:
        InputError: an unknown option or a setting without a value.
    """
    known, rest = parser().parse_known_args(argv)
    settings: dict[str, str] = {}
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or "." not in key:
            options = [o for action in parser()._actions for o in action.option_strings]
            near = difflib.get_close_matches(argument, options, n=1, cutoff=0.5)
            raise InputError(
                f"there is no option {argument}" + (f"; did you mean {near[0]}?" if near else "; see --help")
            )
        if not equals:
            if not rest:
                raise InputError(f"--{key} needs a value")
            value = rest.pop(0)
        settings[key] = value
    if known.only is not None:
        settings["baselines.only"] = f"[{known.only}]"
    if known.accept_copies:
        settings["judge.accept_copies"] = "true"
    if known.paper_protocol:
        settings = PAPER_PROTOCOL | settings
    if known.cohort is not None:
        settings["cohort.manifest"] = str(real_path(known.cohort))
    if known.model is not None:
        settings["predict.model"] = str(real_path(known.model))
    if known.trusted is not None:
        if known.model is None:
            raise InputError("--trusted is about an exported model: name it with --model DIR")
        settings["predict.trusted"] = json.dumps([str(real_path(path)) for path in known.trusted])
    for option, key in (("executor", "kind"), ("workers",) * 2, ("worker_memory",) * 2, ("scheduler",) * 2):
        if (value := getattr(known, option)) is not None:
            settings[f"executor.{key}"] = value
    if known.limit is not None:
        settings["cohort.limit"] = str(known.limit)
    return known, settings


def stage_list(text: str, option: str) -> list[str]:
    """Split `a,b,c` into names of stages.

    Raises:
        InputError: a name is not that of a stage.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in STAGE_NAMES:
            near = difflib.get_close_matches(name, STAGE_NAMES, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise InputError(f"{option}: there is no stage {name!r}{hint} Stages: {', '.join(STAGE_NAMES)}")
    return names
