"""Names of the baselines. The settings are checked against them, so nothing heavy is imported here."""

SIMPLE_NAMES = {
    "hypermm": "HyperMM",
    "hypermm_one_step": "HyperMM w/o 2 steps",
    "multi_cnn": "Multi-CNN",
    "multi_vae": "Multi-VAE",
    "shaspec": "ShaSpec",
    "late_fusion": "late fusion of Uni-CNNs",
    "averaged_probes": "linear probes, averaged",
    "linear_set": "linear set function",
    "zero": "zeros + mask",
    "mean": "mean imputation",
    "nearest": "nearest-neighbour imputation",
    "ridge": "ridge imputation",
    "incremental_cnn": "Incremental-CNN",
}
"""Key → name of the methods that need nothing but feature maps."""

TRANSLATION_BASELINES = {"pix2pix": "pix2pix", "cyclegan": "cycleGAN"}
"""Key → name of the methods that impute whole scans; the pipeline computes their feature maps."""

KEYS = ("uni_cnn", *SIMPLE_NAMES, *TRANSLATION_BASELINES, "ablations")
"""Everything that `baselines.only` takes, in the order of the table."""
