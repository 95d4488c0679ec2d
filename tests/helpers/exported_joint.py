"""A joint model as an exported model carries it, for the feature maps of `small_model`."""

import numpy as np

from models.joint.decoder import fit_decoder
from models.joint.model import JointConfig, Patients, fit_model
from pipeline.deployment.bundle_joint import ExportedJoint
from pipeline.training.joint_patients import CovariateBlocks

PIXELS, CLASSES = 16, 3


def exported_joint(names: tuple[str, ...] = ("pet", "t1"), *, patients: int = 36) -> ExportedJoint:
    """Two modalities with feature maps (6, 2, 2) that share a factor, pictures that follow them, and an age."""
    random = np.random.default_rng(3)
    labels = np.arange(patients) % CLASSES
    factor = random.standard_normal((patients, 2)) + labels[:, None] / 2
    features, images = {}, {}
    for name in names:
        made = factor @ random.standard_normal((2, 24)) + 0.3 * random.standard_normal((patients, 24))
        features[name] = made.astype(np.float32)
        pixels = made @ random.standard_normal((24, 3 * PIXELS**2)) * 0.01
        images[name] = (0.5 + pixels + 0.05 * random.standard_normal(pixels.shape)).astype(np.float32)
    features[names[0]][::4] = np.nan
    config = JointConfig(draws=4, components=5, factors=2)
    model, scores = fit_model(Patients(features, {"age": factor[:, :1]}), labels, CLASSES, config, shape=(6, 2, 2))
    there = ~np.isnan(scores[:, 0])
    part = scores[there][:, model.blocks.slice_of(names[0])]
    decoder = fit_decoder(part, images[names[0]][there], labels[there], CLASSES, config)
    age = {"scales": {"age": [70.0, 9.0]}, "values": {}}
    return ExportedJoint(
        model=model, decoders={names[0]: decoder}, kinds={names[0]: "image"}, spacing_mm=4.0, pixels=PIXELS,
        covariates=CovariateBlocks.from_json(age), training=patients,
        distances=tuple(np.linspace(0.6, 1.6, 25).round(3).tolist()),
    )  # fmt: skip
