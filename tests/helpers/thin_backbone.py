"""VGG11 with few channels under its own name. As a script: `run_pipeline.py` with it; as a preload: Dask's workers.

The layers stay, and so do their strides: what has to hold for every backbone holds for this one. What trains on its
feature maps has fewer parameters, too.
"""

import runpy
from pathlib import Path

from models import backbone

PLAN = (8, "M", 16, "M", 32, 32, "M", 32, 32, "M", 32, 64, "M")


def thin_vgg11(weights: Path | None, *, random_seed: int | None) -> backbone.Backbone:
    """Return a backbone of feature maps (64, 7, 7) with drawn weights."""
    assert random_seed is not None  # there is no file for these layers
    layers = backbone._vgg_layers(PLAN)
    backbone._draw_kaiming(layers, random_seed)
    mean, std = backbone._IMAGENET_MEAN, backbone._IMAGENET_STD
    return backbone.Backbone(layers, feature_map_shape=(64, 7, 7), mean=mean, std=std)


def dask_setup(worker: object) -> None:
    """Give it to a worker of Dask's."""
    backbone.BACKBONES["vgg11"] = thin_vgg11


if __name__ == "__main__":
    backbone.BACKBONES["vgg11"] = thin_vgg11
    runpy.run_path("run_pipeline.py", run_name="__main__")
