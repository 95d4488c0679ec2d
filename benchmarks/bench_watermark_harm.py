"""What does the watermark change for a classifier of real pictures, and what would a weaker mark cost?

Takes the pictures of one modality of a finished run and their cached feature maps, marks each picture with a key of its
own and looks at it again. A penalised logistic regression of channel means is learnt from training patients and asked
about test patients, marked and not, over repeated splits. Other strengths: feature cosine against what is found.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.bench_watermark import BATCH, P, Report, key_of
from benchmarks.common import finish, options
from benchmarks.watermark_pictures import jpeg
from evaluation.intervals import paired_difference, summarise
from models.backbone import Backbone, load_backbone, make_ready, pool_slices
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables
from preprocessing.pictures import read_picture
from preprocessing.slices import picture_to_slice, volume_to_slices
from preprocessing.volumes import read_volume
from synthesis.mark_detection import detect
from synthesis.mark_views import image_of_picture, image_of_volume
from synthesis.recycling import classify, design, labelled, scale_of, strength_of
from synthesis.watermark import PSNR_DB, mark_picture, mark_volume

Floats = NDArray[np.float32]
TRAINING = 0.7  # of each class's patients, in every split
SAME = 0.9999  # cosine of a cached feature map and one made again; networks may compute in half precision
CHANGES = {"PNG": None, "JPEG q90": jpeg(90), "JPEG q50": jpeg(50), "JPEG q20": jpeg(20)}


def main() -> None:
    """Run it."""
    parser = options(__doc__ or "")
    parser.add_argument("--workspace", type=Path, required=True, help="of a run on pictures, with two classes")
    parser.add_argument("--modality", required=True, help="whose pictures are marked")
    parser.add_argument("--limit", type=int, default=10_000, help="patients")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--strengths", type=float, nargs="*", default=[PSNR_DB, 42.0, 45.0, 48.0, 51.0], help="dB")
    parser.add_argument("--pictures", type=int, default=8, help="that are marked with other strengths")
    parser.add_argument("--volumes", type=Path, nargs="*", default=[], help="scans' folders of a stage preprocess")
    arguments = parser.parse_args()
    report, backbone = Report(), make_ready(load_backbone("vgg16"), torch.device("cpu"), "auto")
    scans = _scans(arguments)
    if arguments.strengths:
        weaker_pictures(scans, backbone, arguments, report)
        weaker_volumes(backbone, arguments, report)
    if arguments.splits:
        classifier(scans, backbone, arguments, report)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "watermark_harm.md").write_text("\n".join(report.lines).strip() + "\n", "utf-8")
    finish("watermark_harm", report.found, arguments)


def _scans(arguments: argparse.Namespace) -> pd.DataFrame:
    """Return one picture of each patient, in the order of their names."""
    if arguments.quick:
        arguments.limit, arguments.splits, arguments.pictures, arguments.strengths = 12, 2, 1, [PSNR_DB]
    scans = CohortTables(arguments.workspace / "cohort").scans()
    scans = scans[scans["modality"] == arguments.modality].drop_duplicates("subject").sort_values("subject")
    return scans.groupby("label").head(arguments.limit // 2).reset_index(drop=True)


def _feature_map(backbone: Backbone, pixels: NDArray[np.uint8]) -> Floats:
    return np.asarray(pool_slices(backbone, picture_to_slice(pixels), batch_slices=1).float())


def cosine(one: Floats, two: Floats) -> float:
    """Return the cosine of two feature maps."""
    a, b = one.ravel().astype(np.float64), two.ravel().astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def weaker_pictures(scans: pd.DataFrame, backbone: Backbone, arguments: argparse.Namespace, report: Report) -> None:
    """Mark some pictures with other strengths."""
    report.table(
        "Pictures, other strengths", "dB", "cosine, least", "cosine, mean",
        *(f"z, {name}: least, mean, found" for name in CHANGES),
    )  # fmt: skip
    chosen = scans.iloc[np.linspace(0, len(scans) - 1, arguments.pictures).astype(int)]
    pictures = [(row.scan, read_picture(Path(row.path)).pixels) for row in chosen.itertuples()]
    plain = [_feature_map(backbone, pixels) for _, pixels in pictures]
    for decibels in arguments.strengths:
        marked = [mark_picture(pixels, key=key_of(name), batch=BATCH, decibels=decibels) for name, pixels in pictures]
        cosines = [cosine(one, _feature_map(backbone, made)) for one, made in zip(plain, marked, strict=True)]
        cells = []
        for name, change in CHANGES.items():
            seen = [
                detect(image_of_picture(change(made) if change else made), key_of(scan), [BATCH], thorough=False)
                for (scan, _), made in zip(pictures, marked, strict=True)
            ]
            cells.append(_cell([each.z for each in seen], [each.p for each in seen]))
            report.found[f"pictures, {decibels:g} dB, {name}: found"] = float(np.mean([each.p <= P for each in seen]))
        report.row(f"{decibels:g}", f"{min(cosines):.4f}", f"{np.mean(cosines):.4f}", *cells)
        report.found[f"pictures, {decibels:g} dB: least cosine"] = min(cosines)


def _cell(values: list[float], chances: list[float]) -> str:
    return f"{min(values):.1f}, {np.mean(values):.1f}, {sum(p <= P for p in chances)} of {len(values)}"


def weaker_volumes(backbone: Backbone, arguments: argparse.Namespace, report: Report) -> None:
    """Mark prepared volumes with other strengths."""
    if not arguments.volumes:
        return
    report.table("Volumes, other strengths", "dB", "cosine, least", "cosine, mean", "z: least, mean, found")
    scans = []
    for folder in arguments.volumes:
        image, mask = read_volume(folder / "volume.nii.gz"), read_volume(folder / "mask.nii.gz")
        scans.append((folder.name, image[0].numpy().astype(np.float32), mask[0].numpy() > 0, image.affine.numpy()))
    plain = [_of_slices(backbone, volume, mask, affine) for _, volume, mask, affine in scans]
    for decibels in arguments.strengths:
        cosines, seen = [], []
        for (name, volume, mask, affine), before in zip(scans, plain, strict=True):
            made = mark_volume(volume, mask, affine, key=key_of(name), batch=BATCH, decibels=decibels)
            cosines.append(cosine(before, _of_slices(backbone, made, mask, affine)))
            seen.append(detect(image_of_volume(made, affine), key_of(name), [BATCH], thorough=False))
        cell = _cell([each.z for each in seen], [each.p for each in seen])
        report.row(f"{decibels:g}", f"{min(cosines):.4f}", f"{np.mean(cosines):.4f}", cell)
        report.found[f"volumes, {decibels:g} dB: least cosine"] = min(cosines)
        report.found[f"volumes, {decibels:g} dB: least z"] = min(each.z for each in seen)


def _of_slices(backbone: Backbone, volume: Floats, mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> Floats:
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    slices = volume_to_slices(
        torch.from_numpy(volume), torch.from_numpy(mask), (float(x), float(y), float(z)), slice_spacing_mm=8.0
    )
    return np.asarray(pool_slices(backbone, slices, batch_slices=4).float())


def classifier(scans: pd.DataFrame, backbone: Backbone, arguments: argparse.Namespace, report: Report) -> None:
    """Compare AUC on marked and unmarked test pictures, learnt from unmarked or marked training pictures."""
    store = FeatureStore(arguments.workspace / "features")
    maps: dict[str, Floats] = {"unmarked": store.load(scans["scan"].to_list()).numpy()}
    again = _feature_map(backbone, read_picture(Path(scans["path"][0])).pixels)
    if cosine(again, maps["unmarked"][0]) < SAME:
        raise ValueError(f"{scans['scan'][0]}: the cached feature map is not that of the picture as it is here")
    marked = []
    for row in scans.itertuples():
        made = mark_picture(read_picture(Path(row.path)).pixels, key=key_of(row.scan), batch=BATCH)
        marked.append(_feature_map(backbone, made).reshape(maps["unmarked"].shape[1:]))
    maps["marked"] = np.stack(marked)
    cosines = [cosine(one, two) for one, two in zip(*maps.values(), strict=True)]
    classes = sorted(scans["label"].unique())
    labels = scans["label"].map(classes.index).to_numpy(dtype=np.int64)
    found = {pair: pd.concat(rows) for pair, rows in _answers(maps, labels, scans, arguments.splits).items()}
    report.table(
        f"A classifier of {len(scans)} patients' {arguments.modality} pictures, {arguments.splits} splits; cosine of "
        f"feature maps {min(cosines):.3f} to {max(cosines):.3f}, mean {np.mean(cosines):.3f}",
        "learnt from", "asked about", "AUC", "difference to unmarked, unmarked", "95 % interval",
    )  # fmt: skip
    base = found["unmarked", "unmarked"]
    for (learnt, asked), predictions in found.items():
        change = paired_difference(predictions, base, "auc")
        area = summarise(predictions)["auc"]["mean"]
        interval = f"{change['low']:+.4f} to {change['high']:+.4f}"
        report.row(learnt, asked, f"{area:.4f}", f"{change['difference']:+.4f}", interval)
        name = f"{learnt}, asked about {asked}"
        report.found |= {f"{name}: AUC": area, f"{name}: difference": change["difference"]}
        report.found |= {f"{name}: low": change["low"], f"{name}: high": change["high"]}
    report.found |= {"pictures: least cosine": min(cosines), "pictures: mean cosine": float(np.mean(cosines))}


def _answers(
    maps: dict[str, Floats], labels: NDArray[np.int64], scans: pd.DataFrame, splits: int
) -> dict[tuple[str, str], list[pd.DataFrame]]:
    """Return (learnt from, asked about) → predictions of each split."""
    subjects = scans["subject"].to_list()
    means = {name: each.mean(axis=(2, 3)) for name, each in maps.items()}
    found: dict[tuple[str, str], list[pd.DataFrame]] = {(a, b): [] for a in means for b in means}
    for split in range(1, splits + 1):
        train = labelled(labels, TRAINING, split, subjects)
        test = np.setdiff1d(np.arange(len(labels)), train)
        names = [subjects[i] for i in train]
        for learnt, features in means.items():
            scale = scale_of({"": features[train]})
            rows = design({"": features[train]}, scale)
            strength = strength_of(rows, labels[train], split, names)
            for asked, others in means.items():
                tested = design({"": others[test]}, scale)
                chance = classify((rows, labels[train]), None, tested, share=0.0, strength=strength, classes=2)
                frame: dict[str, Any] = {"repeat": split, "subject": [subjects[i] for i in test]}
                frame |= {"observation": frame["subject"], "truth": labels[test], "p_0": chance[:, 0]}
                found[learnt, asked].append(pd.DataFrame(frame | {"p_1": chance[:, 1]}))
    return found


if __name__ == "__main__":
    main()
