"""The paper's whole experiment, theirs and ours: what was measured a slice and a step, times how often it is done.

300 subjects with two modalities of 90 slices each, 6:1:3, 100 + 100 epochs, 3 repeats; early stopping is left aside on
both sides. The published code runs the frozen backbone on every slice in every epoch of both steps, at batch 1.
"""

from typing import Any

import torch

from benchmarks.bench_features import PASS, as_published, plain_loop
from benchmarks.bench_training import step_one, step_two
from benchmarks.common import finish, in_turns, options
from models.backbone import load_backbone, make_ready, pool_slices
from pipeline.specs.classify import ClassifyConfig
from pipeline.specs.pretrain import PretrainConfig

SUBJECTS, MODALITIES, SLICES, EPOCHS, REPEATS = 300, 2, 90, 100, 3
TRAINING, VALIDATION, TEST = 180, 30, 90


def main() -> None:
    """Run it."""
    arguments = options(__doc__ or "").parse_args()
    rounds, batch = (0, 2) if arguments.quick else (7, 16)
    slices = torch.rand(batch, 224, 224)
    ours, other = load_backbone("vgg11", random_seed=0), load_backbone("vgg11", random_seed=0)
    make_ready(ours, torch.device("cpu"))
    layers = as_published(other)
    taken = in_turns(
        {
            "ours": lambda: pool_slices(ours, slices, batch_slices=PASS),
            "theirs": lambda: plain_loop(layers, other, slices, 1),
        },
        rounds,
    )
    slice_ours, slice_theirs = taken["ours"] / batch, taken["theirs"] / batch
    scans, subjects = (32, 16) if arguments.quick else (120, 60)
    one_theirs, one_ours = (step_one(size, scans, 1) / scans for size in (1, PretrainConfig().batch_size))
    two_theirs, two_ours = (
        step_two(size, subjects, 1, (512, 128)) / subjects for size in (1, ClassifyConfig().batch_size)
    )
    # a validation scan costs a forward pass; counted here as a training step on both sides
    passes = REPEATS * EPOCHS * (TRAINING + VALIDATION)
    lines_theirs = {
        "step 1, backbone": passes * MODALITIES * SLICES * slice_theirs,
        "step 1, training": passes * MODALITIES * one_theirs,
        "step 2, backbone": passes * MODALITIES * SLICES * slice_theirs,
        "step 2, training": passes * two_theirs,
        "test, backbone": REPEATS * TEST * MODALITIES * SLICES * slice_theirs,
    }
    lines_ours = {
        "backbone, once": SUBJECTS * MODALITIES * SLICES * slice_ours,
        "step 1, training": passes * MODALITIES * one_ours,
        "step 2, training": passes * two_ours,
    }
    results: dict[str, Any] = {
        "ms a slice, published way": 1e3 * slice_theirs,
        "ms a slice, ours": 1e3 * slice_ours,
        "ms a scan in step 1, batch 1": 1e3 * one_theirs,
        "ms a scan in step 1, ours": 1e3 * one_ours,
        "ms a subject in step 2, batch 1": 1e3 * two_theirs,
        "ms a subject in step 2, ours": 1e3 * two_ours,
    }
    results |= {f"published way, hours: {name}": seconds / 3600 for name, seconds in lines_theirs.items()}
    results |= {f"ours, hours: {name}": seconds / 3600 for name, seconds in lines_ours.items()}
    total_theirs, total_ours = sum(lines_theirs.values()), sum(lines_ours.values())
    results |= {
        "published way, hours": total_theirs / 3600,
        "ours, hours": total_ours / 3600,
        "published way / ours": total_theirs / total_ours,
    }
    finish("protocol", results, arguments)


if __name__ == "__main__":
    main()
