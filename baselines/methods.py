"""All comparators in one list: what each is called, and how it is fitted."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from baselines.cnn import fit_incremental_cnn, fit_late_fusion, fit_multi_cnn, fit_uni_cnn
from baselines.hypermm import HyperMMOptions, fit_hypermm
from baselines.imputers import IMPUTERS, fit_imputed
from baselines.names import SIMPLE_NAMES
from baselines.probes import fit_averaged_probes, fit_linear_set
from baselines.sample import Fitted, Sample, Training
from baselines.shaspec import fit_shaspec
from baselines.vae import fit_multi_vae

Fit = Callable[[Sample, Training], Fitted]


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: as printed.
        fit: from a sample to a trained comparator.
        standardised: whether it wants the sample standardised; the published HyperMM does not.
        published: train as the paper does: batches of one, rate 1e-4.
        batch_size: another batch size than the run's; None for the same.
    """

    name: str
    fit: Fit
    standardised: bool = True
    published: bool = False
    batch_size: int | None = None

    def training(self, training: Training) -> Training:
        """The settings of the fit loop for this method."""
        if self.published:
            return replace(training, batch_size=1, learning_rate=1e-4)
        return training if self.batch_size is None else replace(training, batch_size=self.batch_size)


def _imputed(kind: str) -> Fit:
    return lambda sample, training: fit_imputed(sample, training, IMPUTERS[kind])


def _hypermm(options: HyperMMOptions) -> Fit:
    return lambda sample, training: fit_hypermm(sample, training, options)


def _of_modality(modality: int) -> Fit:
    return lambda sample, training: fit_uni_cnn(sample, training, modality=modality)


_FITS: dict[str, Fit] = {
    "hypermm": fit_hypermm,
    "hypermm_one_step": _hypermm(HyperMMOptions(two_steps=False, hidden=(512, 128), rate=None)),
    "multi_cnn": fit_multi_cnn,
    "multi_vae": fit_multi_vae,
    "shaspec": fit_shaspec,
    "late_fusion": fit_late_fusion,
    "averaged_probes": fit_averaged_probes,
    "linear_set": fit_linear_set,
    "zero": _imputed("zero"),
    "mean": _imputed("mean"),
    "nearest": _imputed("nearest"),
    "ridge": _imputed("ridge"),
    "incremental_cnn": fit_incremental_cnn,
}
SIMPLE: dict[str, Method] = {key: Method(name, _FITS[key]) for key, name in SIMPLE_NAMES.items()}
"""The methods that need nothing but blocks, by key."""

ABLATIONS: tuple[Method, ...] = (
    Method("HyperMM, sum", _hypermm(HyperMMOptions(aggregate="sum"))),
    Method("HyperMM, max", _hypermm(HyperMMOptions(aggregate="max"))),
    Method("HyperMM, step 1 CE only", _hypermm(HyperMMOptions(losses="classification"))),
    Method("HyperMM, step 1 MSE only", _hypermm(HyperMMOptions(losses="reconstruction"))),
    Method("HyperMM, embedding 2", _hypermm(HyperMMOptions(embedding=2))),
    Method("HyperMM, embedding 20", _hypermm(HyperMMOptions(embedding=20))),
    Method("HyperMM, default initialisation", _hypermm(HyperMMOptions(initialisation="default"))),
    Method("HyperMM, modality dropout 0.3", _hypermm(HyperMMOptions(modality_dropout=0.3))),
    Method("HyperMM, φ fine-tuned", _hypermm(HyperMMOptions(fine_tune=True))),
    Method("HyperMM, ρ of three layers", _hypermm(HyperMMOptions(hidden=(512, 128), rate=1e-4))),
    Method("HyperMM, batches of 1", _hypermm(HyperMMOptions()), batch_size=1),
    Method("HyperMM, batches of 64", _hypermm(HyperMMOptions()), batch_size=64),
    Method(
        "HyperMM, paper protocol",
        _hypermm(HyperMMOptions(initialisation="default", hidden=(512, 128), rate=None)),
        standardised=False,
        published=True,
    ),
)
"""One change each against the project's HyperMM; the last is everything as published."""


def chosen_methods(keys: tuple[str, ...], modalities: tuple[str, ...], *, pictures: bool) -> tuple[Method, ...]:
    """The methods of some keys that need nothing but blocks, in the order of the table.

    Args:
        keys: of `KEYS`.
        modalities: names.
        pictures: the scans are pictures, whose Uni-CNN the paper calls CNN.
    """
    methods: list[Method] = []
    if "uni_cnn" in keys:
        word = "CNN" if pictures else "Uni-CNN"
        methods += [Method(f"{word} {name}", _of_modality(m)) for m, name in enumerate(modalities)]
    methods += [method for key, method in SIMPLE.items() if key in keys]
    return tuple(methods) + (ABLATIONS if "ablations" in keys else ())
