"""Combine the contributions of several sites, and make the keys of their masks.

python -m pipeline.cli.federation combine FILES --out model.safetensors   adds contributions and fits the joint model
python -m pipeline.cli.federation show FILES                              prints what contributions or models hold
python -m pipeline.cli.federation job --workspace DIR --out JOB           writes a job for NVFlare: HyperMM over sites
python -m pipeline.cli.federation key KEYFILE                             makes KEYFILE, for its owner, and KEYFILE.pub
python -m pipeline.cli.federation fingerprint KEY.pub                     prints a key's fingerprint

A contribution is made at a site by `run_pipeline.py --stages contribute`; the joint model is used there with
`--joint.federated`. docs/federation.md explains both.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from console.errors import InputError
from console.exit_codes import DONE, exit_code
from console.messages import make_streams_safe, say, show_warnings_safely
from console.parser import Parser, typed_path
from files.key_pairs import fingerprint
from files.writing import PRIVATE, readable_by, replacing
from models.federated_hypermm import Rounds
from pipeline.federation.combine import combine
from pipeline.federation.mask_keys import new_key, public_key
from pipeline.federation.nvflare_job import write_job
from pipeline.federation.plan import cell_name, plan_hash
from pipeline.federation.rounds import job_of_workspace
from pipeline.federation.sum_files import FederationFileError, model_bytes, read_contribution, read_model
from reporting.formatting import count


def parser() -> Parser:
    """Return the parser of the options."""
    options = Parser(
        prog="python -m pipeline.cli.federation",
        description="Combine the contributions of several sites, and make the keys of their masks.",
    )
    ways = options.add_subparsers(dest="way", required=True, metavar="combine|show|job|key|fingerprint")
    way = ways.add_parser("combine", help="add contributions and fit the joint model")
    way.add_argument("files", nargs="+", type=typed_path, metavar="FILE", help="a contribution of each site")
    way.add_argument("--out", type=typed_path, required=True, metavar="FILE", help="the joint model, for every site")
    way.add_argument("--factors", type=int, default=4, metavar="N", help="directions of the embedding; default 4")
    way = ways.add_parser("show", help="print what contributions or models hold")
    way.add_argument("files", nargs="+", type=typed_path, metavar="FILE", help="contribution or joint model")
    _add_job(ways.add_parser("job", help="write a job for NVFlare: HyperMM trained over sites"))
    way = ways.add_parser("key", help="make the key of a site's masks")
    way.add_argument("key", type=typed_path, metavar="KEYFILE", help="file to make; must not exist yet")
    way = ways.add_parser("fingerprint", help="print the fingerprint of a public key")
    way.add_argument("key", type=typed_path, metavar="KEY.pub")
    return options


def _add_job(way: argparse.ArgumentParser) -> None:
    usual = Rounds()
    add = way.add_argument
    add("--workspace", type=typed_path, required=True, metavar="DIR", help="after the stage features, as at every site")
    add("--out", type=typed_path, required=True, metavar="JOB", help="folder to make")
    add("--classes", metavar="A,B", help="of all sites, in order; default those of the workspace")
    add("--repeat", type=int, default=1, metavar="N", help="whose training patients are learnt from; default 1")
    add("--rounds", type=int, nargs=2, default=(usual.extractor, usual.classifier), metavar="N", help="of φ and of ρ")
    add("--epochs", type=int, default=usual.epochs, metavar="N", help="of a site in a round; default 1")
    add("--batch-size", type=int, default=usual.batch_size, metavar="N", help=f"default {usual.batch_size}")
    add("--rates", type=float, nargs=2, default=(usual.learning_rate, usual.classifier_learning_rate), metavar="X",
        help="learning rates of φ and of ρ")  # fmt: skip
    add("--proximal", type=float, default=usual.proximal, metavar="MU", help="of FedProx; default 0, FedAvg")
    add("--fewest-sites", type=int, default=usual.fewest_sites, metavar="N", help="that a round needs; default 2")
    add("--timeout", type=int, default=3600, metavar="S", help="seconds that a round may take; default 3600")
    add("--seed", type=int, default=0, metavar="N", help="of weights and orders; default 0")


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    options = parser().parse_args(argv)
    if options.way == "combine":
        return _combine(options)
    if options.way == "show":
        for path in options.files:
            _show(path)
    elif options.way == "job":
        _job(options)
    elif options.way == "key":
        say(f"made {options.key}, which stays here, and {options.key}.pub for all sites: {new_key(options.key)}")
    else:
        say(fingerprint(public_key(options.key)))
    return DONE


def _combine(options: argparse.Namespace) -> int:
    if not 2 <= options.factors <= 16:
        raise FederationFileError(f"--factors {options.factors}: expected 2 to 16")
    sent = {str(path): read_contribution(path) for path in options.files}
    model, facts = combine(sent, factors=options.factors)
    with readable_by(PRIVATE), replacing(options.out) as partial:
        partial.write_bytes(model_bytes(model, facts))
    for note in facts["notes"]:
        say(f"note: {note}")
    say(f"{model.sums.count} patients of {count(len(sent), 'contribution')} → {options.out}")
    return DONE


def _job(options: argparse.Namespace) -> None:
    numbers = (*options.rounds, options.epochs, options.batch_size, options.fewest_sites, options.timeout)
    if min(numbers) < 1 or options.proximal < 0 or not all(0 < rate < 1 for rate in options.rates) or options.seed < 0:
        raise InputError(
            "rounds, epochs, sizes and seconds are at least 1, rates between 0 and 1, --proximal not below 0"
        )
    if options.out.exists():
        raise InputError(f"{options.out} exists already; name a folder that does not")
    extractor, classifier = options.rounds
    rate, classifier_rate = options.rates
    rounds = Rounds(
        extractor=extractor,
        classifier=classifier,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=rate,
        classifier_learning_rate=classifier_rate,
        proximal=options.proximal,
        fewest_sites=options.fewest_sites,
        seed=options.seed,
    )
    classes = tuple(options.classes.split(",")) if options.classes else ()
    job = job_of_workspace(options.workspace, rounds, repeat=options.repeat, timeout_s=options.timeout, classes=classes)
    write_job(options.out, job)
    say(f"job {job.settings} for {', '.join(job.plan['modalities'])} and classes {', '.join(job.plan['classes'])}")
    say(f"→ {options.out}; submit it with NVFlare's console (docs/federation.md)")


def _show(path: Path) -> None:
    try:
        sent = read_contribution(path)
    except FederationFileError as error:
        try:
            model, facts = read_model(path)
        except FederationFileError:
            raise error from None
        of = count(len(facts["contributions"]), "contribution")
        say(f"{path}: joint model of {of}, plan {plan_hash(facts['plan'])}")
        for key, cell in model.sums.cells.items():
            say(f"  {cell_name(facts['plan'], key, model.blocks)}: {cell.count} patients")
        return
    noise = sent.facts["noise"]
    kind = "with masks" if sent.ring is not None else f"with noise, ε = {noise['epsilon']:g}" if noise else "as it is"
    say(f"{path}: contribution of repeat {sent.facts['repeat']}, {kind}, plan {plan_hash(sent.plan)}")
    for key, cell in (sent.plain.sums.cells if sent.plain else {}).items():
        say(f"  {cell_name(sent.plan, key)}: {cell.count} patients")


if __name__ == "__main__":
    make_streams_safe()
    show_warnings_safely()
    raise SystemExit(main(sys.argv[1:]))
