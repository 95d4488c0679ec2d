"""All baselines in one list, with their names and fit functions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from baselines.cnn import fit_uni_cnn
from baselines.hypermm import Variant, fit_hypermm
from baselines.imputers import IMPUTERS, fit_imputed
from baselines.joint_hypermm import fit_joint_hypermm
from baselines.names import SIMPLE_BASELINES, SIMPLE_NAMES
from baselines.sample import Fitted, Sample
from models.settings import StepOne, StepTwo, Training

Fit = Callable[[Sample, Training], Fitted]


@dataclass(frozen=True)
class Baseline:
    """One row of the table.

    Attributes:
        name: as shown in the table.
        fit: fits the baseline on a sample.
        standardised: whether it wants the sample standardised; HyperMM does that itself, or not at all as published.
        batch_size: another batch size than the run's; None for the same.
        published: the paper's rate, whatever the run's is.
        shares: methods with the same word have a network in common, which one process then trains once for all of them.
        shares_if_whole: the same, and before `shares`, where no training or validation observation lacks a modality.
    """

    name: str
    fit: Fit
    standardised: bool = True
    batch_size: int | None = None
    published: bool = False
    shares: str = ""
    shares_if_whole: str = ""

    def training(self, training: Training) -> Training:
        """Return the settings of the fit loop for this method."""
        if self.published:
            training = replace(training, learning_rate=1e-4, weight_decay=5e-4)
        return training if self.batch_size is None else replace(training, batch_size=self.batch_size)


def _imputed(kind: str) -> Fit:
    return lambda sample, training: fit_imputed(sample, training, IMPUTERS[kind])


def _hypermm(name: str, *, batch_size: int | None = None, published: bool = False, **changes: Any) -> Baseline:
    """Return a variant of HyperMM; with a batch size, that of both steps, where the second has batches."""
    variant = Variant(**changes) if batch_size is None else Variant(**changes, batch_size=batch_size)

    def fit(sample: Sample, training: Training) -> Fitted:
        return fit_hypermm(sample, training, variant)

    shares = f"φ {variant.one}" if variant.two_steps and batch_size is None else ""
    return Baseline(name, fit, standardised=False, batch_size=batch_size, published=published, shares=shares)


def _joint_hypermm(name: str) -> Baseline:
    """Return HyperMM on draws of the joint model; φ is that of the row HyperMM."""
    variant = Variant()

    def fit(sample: Sample, training: Training) -> Fitted:
        return fit_joint_hypermm(sample, training, variant)

    return Baseline(name, fit, standardised=False, shares=f"φ {variant.one}")


def _of_modality(modality: int) -> Fit:
    return lambda sample, training: fit_uni_cnn(sample, training, modality=modality)


def _fit_of(key: str) -> Fit:
    """Return the fit of a method that is no HyperMM."""
    if key in _FITS:
        return _FITS[key]
    module, _, function = SIMPLE_BASELINES[key].fit.partition(":")
    fit: Fit = getattr(import_module(module), function)
    return fit


_FITS: dict[str, Fit] = {
    "zero": _imputed("zero"),
    "mean": _imputed("mean"),
    "nearest": _imputed("nearest"),
    "ridge": _imputed("ridge"),
}
_SHARES = {"late_fusion": "Uni-CNN", "averaged_probes": "linear", "linear_set": "linear"}  # linear: short tasks
_SHARES |= dict.fromkeys(("joint_mean", "joint_draws"), "joint")
_SHARES_IF_WHOLE = dict.fromkeys(("multi_cnn", "mean", "nearest", "ridge", "joint_mean", "joint_draws"), "Multi-CNN")
THREE_LAYERS = StepTwo(fit="epochs", hidden=(512, 128))
BY_EPOCHS = StepTwo(fit="epochs")
_HYPERMM: dict[str, Callable[[str], Baseline]] = {
    "hypermm": _hypermm,
    "hypermm_one_step": lambda name: _hypermm(name, two=THREE_LAYERS, two_steps=False),
    "joint_hypermm": _joint_hypermm,
}
SIMPLE: dict[str, Baseline] = {
    key: _HYPERMM[key](name)
    if key in _HYPERMM
    else Baseline(name, _fit_of(key), shares=_SHARES.get(key, ""), shares_if_whole=_SHARES_IF_WHOLE.get(key, ""))
    for key, name in SIMPLE_NAMES.items()
}
"""The methods that need nothing but feature maps, by key."""

ABLATIONS: tuple[Baseline, ...] = (
    _hypermm("HyperMM, mean", two=StepTwo(aggregate="mean")),
    _hypermm("HyperMM, max", two=StepTwo(aggregate="max")),
    _hypermm("HyperMM, step 1 CE only", one=StepOne(losses="classification")),
    _hypermm("HyperMM, step 1 MSE only", one=StepOne(losses="reconstruction")),
    _hypermm("HyperMM, step 1 stopped by both losses", one=StepOne(stop_on="loss")),
    _hypermm("HyperMM, embedding 2", one=StepOne(embedding=2)),
    _hypermm("HyperMM, embedding 20", one=StepOne(embedding=20)),
    _hypermm("HyperMM, default initialisation", one=StepOne(initialisation="default")),
    _hypermm("HyperMM, ρ by epochs", two=BY_EPOCHS),
    _hypermm("HyperMM, ρ by epochs, modality dropout 0.3", two=replace(BY_EPOCHS, modality_dropout=0.3)),
    _hypermm("HyperMM, φ fine-tuned, ρ by epochs", two=BY_EPOCHS, fine_tune=True),
    _hypermm("HyperMM, ρ of three layers", two=THREE_LAYERS),
    _hypermm("HyperMM, batches of 1", batch_size=1),
    _hypermm("HyperMM, batches of 64", batch_size=64),
    _hypermm(
        "HyperMM, paper protocol",
        one=StepOne(initialisation="default", feature_scale="none", stop_on="loss"),
        two=THREE_LAYERS,
        batch_size=1,
        published=True,
    ),
)
"""One change each against the project's HyperMM; the last is everything as published."""


def units_of(methods: Iterable[Baseline], *, whole: bool) -> list[tuple[Baseline, ...]]:
    """Group methods by the networks that they have in common; a unit is fitted on one `SharingSample`.

    Args:
        methods: in the order of the table.
        whole: no training or validation observation lacks a modality.
    """
    units: dict[str, list[Baseline]] = {}
    for method in methods:
        common = (method.shares_if_whole if whole else "") or method.shares
        units.setdefault(common or method.name, []).append(method)
    return [tuple(unit) for unit in units.values()]


def chosen_baselines(keys: tuple[str, ...], modalities: tuple[str, ...], *, pictures: bool) -> tuple[Baseline, ...]:
    """Return the methods of some keys that need nothing but feature maps, in the order of the table.

    Args:
        keys: of `KEYS`.
        modalities: names.
        pictures: the scans are pictures, whose Uni-CNN the paper calls CNN.
    """
    methods: list[Baseline] = []
    if "uni_cnn" in keys:
        prefix = "CNN" if pictures else "Uni-CNN"
        methods += [
            Baseline(f"{prefix} {name}", _of_modality(m), shares="Uni-CNN") for m, name in enumerate(modalities)
        ]
    methods += [method for key, method in SIMPLE.items() if key in keys]
    return tuple(methods) + (ABLATIONS if "ablations" in keys else ())
