"""Names of the baselines. The settings are checked against them, so nothing heavy is imported here."""

from typing import NamedTuple


class SimpleBaseline(NamedTuple):
    """A method that needs nothing but feature maps.

    Attributes:
        name: as printed.
        fit: "module:function" of a `baselines.methods.Fit`; "" where `baselines.methods` makes it of another.
    """

    name: str
    fit: str = ""


SIMPLE_BASELINES = {
    "hypermm": SimpleBaseline("HyperMM"),
    "hypermm_one_step": SimpleBaseline("HyperMM w/o 2 steps"),
    "multi_cnn": SimpleBaseline("Multi-CNN", "baselines.cnn:fit_multi_cnn"),
    "multi_vae": SimpleBaseline("Multi-VAE", "baselines.vae:fit_multi_vae"),
    "shaspec": SimpleBaseline("ShaSpec", "baselines.shaspec:fit_shaspec"),
    "late_fusion": SimpleBaseline("late fusion of Uni-CNNs", "baselines.cnn:fit_late_fusion"),
    "averaged_probes": SimpleBaseline("linear probes, averaged", "baselines.probes:fit_averaged_probes"),
    "linear_set": SimpleBaseline("linear set function", "baselines.probes:fit_linear_set"),
    "zero": SimpleBaseline("zeros + mask"),
    "mean": SimpleBaseline("mean imputation"),
    "nearest": SimpleBaseline("nearest-neighbour imputation"),
    "ridge": SimpleBaseline("ridge imputation"),
    "joint_mean": SimpleBaseline("joint mean", "baselines.joint:fit_joint_mean"),
    "joint_draws": SimpleBaseline("joint draws", "baselines.joint:fit_joint_draws"),
    "joint_hypermm": SimpleBaseline("HyperMM on joint draws"),
    "incremental_cnn": SimpleBaseline("Incremental-CNN", "baselines.cnn:fit_incremental_cnn"),
}
SIMPLE_NAMES = {key: method.name for key, method in SIMPLE_BASELINES.items()}
"""Key → name of the methods that need nothing but feature maps."""

TRANSLATION_BASELINES = {"pix2pix": "pix2pix", "cyclegan": "cycleGAN"}
"""Key → name of the methods that impute whole scans; the pipeline computes their feature maps."""

TABLE_BASELINES = {
    "covariates": "covariates only",
    "availability": "availability only",
    "covariates_availability": "covariates and availability",
    "covariates_images": "covariates + HyperMM",
}
"""Key → name of the methods that see no image, and of the late fusion of one with HyperMM."""

KEYS = ("uni_cnn", *SIMPLE_NAMES, *TRANSLATION_BASELINES, *TABLE_BASELINES, "ablations")
"""Everything that `baselines.only` takes, in the order of the table."""
