"""Is the watermark found after what happens to files, never without its key, and without harm? And what defeats it?

Brains are marked with keys of their own, changed (`benchmarks.watermark_changes`), and looked at. Without --volumes
they are demo phantoms. Each table goes into `watermark.md` beside the JSON, for docs/results/watermark.md.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.common import finish, options
from benchmarks.watermark_changes import CHANGES, DEFEATS, SEARCHED, Change, Scan, Tools
from benchmarks.watermark_pictures import NO_MARK, PICTURE_CHANGES, PICTURE_SEARCHED, PictureChange, Pixels, small
from demo.biopsies import MAGNIFICATIONS, BiopsiesConfig, biopsy, make_picture
from demo.phantoms import PhantomsConfig, make_scan, phantom
from models.backbone import Backbone, load_backbone, make_ready, pool_slices
from preprocessing.brains import VolumePipeline, preprocess_volume
from preprocessing.errors import ScanError
from preprocessing.limits import DEFAULT_LIMITS
from preprocessing.pictures import read_picture
from preprocessing.resample import voxel_size_mm
from preprocessing.slices import volume_to_slices
from preprocessing.volumes import read_volume
from synthesis.mark_detection import correlations, detect, noise_spectrum, threshold, trials
from synthesis.mark_pattern import key_signs
from synthesis.mark_views import Image, image_of_picture, image_of_volume, straight_view, turns
from synthesis.watermark import mark_picture, mark_volume, psnr_db

SPACING_MM = 1.5
P = 1e-3
BATCH = "1"
PARTS = (
    "changes",
    "turns",
    "defeats",
    "unmarked",
    "keys",
    "picture keys",
    "attacks",
    "harm",
    "classifier",
    "pictures",
    "small pictures",
    "picture turns",
)


class Head(NamedTuple):
    """A brain, not marked."""

    name: str
    volume: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]


class Report:
    """Tables in Markdown, and the figures for the JSON."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.found: dict[str, Any] = {}

    def table(self, title: str, *headers: str) -> None:
        """Begin a table."""
        self.lines += [f"\n### {title}\n", f"| {' | '.join(headers)} |", "|---" * len(headers) + "|"]

    def row(self, *cells: Any) -> None:
        """Add a row, and print it."""
        self.lines.append(f"| {' | '.join(map(str, cells))} |")
        print(self.lines[-1], flush=True)


def main() -> None:
    """Run it."""
    arguments = _arguments()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        limits = DEFAULT_LIMITS
        pipeline = VolumePipeline.ready(
            "fast", device=torch.device("cpu"), precision="auto", parameters=None, spacing_mm=SPACING_MM, limits=limits
        )
        tools = Tools(Path(folder), pipeline, np.random.default_rng(0))
        heads, originals = list(_heads(arguments, pipeline)), list(_pictures(arguments))

        def some(changes: Mapping[str, Any]) -> dict[str, Any]:
            named = {n: each for n, each in changes.items() if any(part in n for part in arguments.changes or [n])}
            return dict(list(named.items())[: 3 if arguments.quick else None])

        parts = {
            "changes": lambda: survival(_marked(heads, arguments.marks), some(CHANGES), tools, report, thorough=False),
            "turns": lambda: survival(_marked(heads, 1), some(SEARCHED), tools, report, thorough=True),
            "defeats": lambda: survival(_marked(heads[:6], 1), some(DEFEATS), tools, report, thorough=True),
            "unmarked": lambda: unmarked(heads, report),
            "keys": lambda: wrong_keys(_with_a_marked_scan(heads), arguments.keys, report),
            "picture keys": lambda: wrong_keys(_with_a_marked_picture(originals), arguments.keys, report),
            "attacks": lambda: attacks(4 if arguments.quick else 20, report),
            "harm": lambda: harm(heads, report),
            "classifier": lambda: classifier(8 if arguments.quick else arguments.patients, report),
            "pictures": lambda: picture_survival(
                originals, PICTURE_CHANGES, "Pictures, as they lie", arguments.marks, report, thorough=False
            ),
            "small pictures": lambda: picture_survival(
                small(originals), PICTURE_CHANGES, "Their middle as 64 × 64", arguments.marks, report, thorough=False
            ),
            "picture turns": lambda: picture_survival(
                originals[:6],
                some(PICTURE_SEARCHED),
                "Pictures, whole search",
                1,
                report,
                thorough=True,
            ),
        }
        for name in arguments.only or parts:
            parts[name]()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "watermark.md").write_text("\n".join(report.lines).strip() + "\n", "utf-8")
    finish("watermark", report.found, arguments)


def _arguments() -> argparse.Namespace:
    parser = options(__doc__ or "")
    parser.add_argument("--volumes", type=Path, nargs="*", default=[], help="folders of NIfTIs; else demo phantoms")
    parser.add_argument(
        "--prepared", type=Path, nargs="*", default=[], help="scans' folders of a stage preprocess, stripped already"
    )
    parser.add_argument("--trust", choices=("sform", "qform"), help="affine of NIfTIs whose codes are 0")
    parser.add_argument("--pictures", type=Path, nargs="*", default=[], help="folders of pictures; else drawn biopsies")
    parser.add_argument("--limit", type=int, default=12, help="files of a folder, evenly spread")
    parser.add_argument("--marks", type=int, default=2, help="keys that each image is marked with")
    parser.add_argument("--keys", type=int, default=10_000, help="wrong keys")
    parser.add_argument("--patients", type=int, default=60, help="phantoms for the classifier")
    parser.add_argument("--changes", nargs="*", default=[], help="only changes whose name has one of these words")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=[], help=f"parts of {' '.join(PARTS)}")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.marks, arguments.keys, arguments.limit = 1, 20, 1
    return arguments


def _heads(arguments: argparse.Namespace, pipeline: VolumePipeline) -> Iterator[Head]:
    """Yield preprocessed brains of the folders, or of phantoms, whose mask is known."""
    for folder in arguments.prepared:
        image, mask = read_volume(folder / "volume.nii.gz"), read_volume(folder / "mask.nii.gz")
        volume = image[0].numpy().astype(np.float32)
        yield Head(folder.name, volume, mask[0].numpy() > 0, image.affine.numpy())
    for folder in arguments.volumes:
        for path in _spread(sorted(folder.glob("*.nii*")), arguments.limit):
            try:
                brain = preprocess_volume(
                    pipeline,
                    read_volume(path, trust=arguments.trust),
                    None,
                    skull_strip=True,
                    normalise="minmax_robust",
                )
            except ScanError as error:
                print(f"{path.name} left out: {error}")
                continue
            yield Head(f"{folder.name}/{path.name.split('.')[0]}", brain.volume, brain.mask, brain.affine)
    if not arguments.volumes and not arguments.prepared:
        config = PhantomsConfig(mri_voxel_mm=3.0 if arguments.quick else SPACING_MM)
        for number in range(1, arguments.limit + 1):
            yield _phantom(number, config)


def _phantom(number: int, config: PhantomsConfig) -> Head:
    volume, mask, affine = make_scan(phantom(number, config), "MRI", config)
    inside = mask.astype(bool)
    top = float(np.percentile(volume[inside], 99.9))
    return Head(f"phantom {number}", np.where(inside, volume / top, 0).clip(0, 1).astype(np.float32), inside, affine)


def _pictures(arguments: argparse.Namespace) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for folder in arguments.pictures:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif"))
        for path in _spread(files, arguments.limit):
            yield f"{folder.name}/{path.stem}", read_picture(path).pixels
    if not arguments.pictures:
        config = BiopsiesConfig()
        for number in range(1, arguments.limit + 1):
            patient = biopsy(number, config)
            magnification = next(name for name in MAGNIFICATIONS if patient.pictures(name))
            yield f"drawn {number}", make_picture(patient, magnification, 1, config)


def _spread(paths: list[Path], most: int) -> list[Path]:
    """Take so many paths, evenly spread."""
    return [paths[round(i * (len(paths) - 1) / max(most - 1, 1))] for i in range(min(most, len(paths)))]


def key_of(name: str) -> bytes:
    """Return a key that goes with a name, for this benchmark alone."""
    return hashlib.sha256(name.encode()).digest()


Marked = tuple[Head, bytes, NDArray[np.float32]]


def _marked(heads: list[Head], marks: int) -> list[Marked]:
    """Mark each head with keys of its own; return heads, keys and marked volumes."""
    keys = [(head, key_of(f"{head.name} {number}")) for head in heads for number in range(marks)]
    return [(head, key, mark_volume(head.volume, head.mask, head.affine, key=key, batch=BATCH)) for head, key in keys]


def survival(
    marked: list[Marked], changes: Mapping[str, Change], tools: Tools, report: Report, *, thorough: bool
) -> None:
    """Change marked volumes, and look."""
    title = "Found after turns and mirrors, by the whole search" if thorough else "Found as the image lies"
    report.table(title, "change", "found", "least z", "mean z", "missed, of a normal z")
    axes_trials = trials(3, len(turns(3)) * 8 if thorough else 1)
    limit = threshold(P, axes_trials)
    for name, change in changes.items():
        values, hits = [], 0
        for head, key, volume in marked:
            try:
                scan = change(Scan(volume, head.affine), tools)
            except ScanError as error:
                print(f"{name}, {head.name}: {error}")
                continue
            seen = detect(image_of_volume(scan.volume, scan.affine), key, [BATCH], thorough=thorough)
            values.append(seen.z)
            hits += seen.p <= P
        missed = float(stats.norm.cdf((limit - float(np.mean(values))) / max(float(np.std(values)), 1.0)))
        report.row(name, f"{hits} of {len(values)}", f"{min(values):.1f}", f"{np.mean(values):.1f}", f"{missed:.1g}")
        report.found[f"{name}: share found"] = hits / len(values)
        report.found[f"{name}: least z"] = min(values)


def unmarked(heads: list[Head], report: Report) -> None:
    """Look for marks in scans that have none, as they are and with the whole search."""
    smallest = []
    for head in heads:
        seen = detect(image_of_volume(head.volume, head.affine), key_of("nobody's"), [BATCH])
        smallest.append(seen.p)
    report.table("Scans that carry no mark, whole search", "scans", "with p ≤ .001", "smallest p")
    report.row(len(heads), sum(p <= P for p in smallest), f"{min(smallest):.2g}")
    report.found["unmarked: called marked"] = float(np.mean([p <= P for p in smallest]))


def wrong_keys(images: list[Image], keys: int, report: Report) -> None:
    """Look for many wrong keys in unmarked images and one marked with another key, at all places of the coarse grid."""
    axes = images[0].values.ndim
    views = [straight_view(image).spectrum for image in images]
    largest = np.zeros((keys, len(views)))
    for number in range(keys):
        spectrum = noise_spectrum(torch.from_numpy(key_signs(key_of(f"wrong {number}"), BATCH, axes)).float())[None]
        for place, view in enumerate(views):
            largest[number, place] = float(correlations(view, spectrum, axes, finer=1).abs().max())
    looked = trials(axes, 1) / 2 / 2**axes  # two signs, the coarse grid, one round
    kind = "scans" if axes == 3 else "pictures"
    report.table(
        f"{keys:,} wrong keys on {len(views)} {kind}, one of them marked with another key",
        "called marked at p ≤ …", "at most", "measured", "95 % interval",
    )  # fmt: skip
    for p in (0.5, 0.1, 0.01, P):
        hits = int((largest >= threshold(p, looked)).sum())
        low, high = _clopper_pearson(hits, largest.size)
        share = f"{hits / largest.size:.2g} ({hits:,} of {largest.size:,})"
        report.row(f"{p:g}", f"{p:g}", share, f"{low:.2g} to {high:.2g}")
        report.found[f"wrong keys, {kind}: share with p <= {p:g}"] = hits / largest.size
    needed = threshold(P, trials(axes, 1))
    beyond = f"{int((largest >= needed).sum())} reach the {needed:.2f} that verify asks for"
    report.row("largest z of all", "", f"{largest.max():.2f}", beyond)
    report.found[f"wrong keys, {kind}: largest z"] = float(largest.max())


def _with_a_marked_scan(heads: list[Head]) -> list[Image]:
    """Return up to four scans, and the first of them marked."""
    head = heads[0]
    marked = mark_volume(head.volume, head.mask, head.affine, key=key_of("right"), batch=BATCH)
    return [*(image_of_volume(each.volume, each.affine) for each in heads[:4]), image_of_volume(marked, head.affine)]


def _with_a_marked_picture(originals: list[tuple[str, NDArray[np.uint8]]]) -> list[Image]:
    marked = mark_picture(originals[0][1], key=key_of("right"), batch=BATCH)
    return [*(image_of_picture(pixels) for _, pixels in originals[:4]), image_of_picture(marked)]


def _clopper_pearson(hits: int, number: int) -> tuple[float, float]:
    low = float(stats.beta.ppf(0.025, hits, number - hits + 1)) if hits else 0.0
    return low, float(stats.beta.ppf(0.975, hits + 1, number - hits)) if hits < number else 1.0


def attacks(files_of: int, report: Report) -> None:
    """Average marked phantoms of a batch, all on one grid; remove and forge marks with what they give away."""
    config, key = PhantomsConfig(subjects=2 * files_of + 2, mri_voxel_mm=3.0), key_of("attacked")
    numbers = [number for number in range(1, config.subjects + 1) if phantom(number, config).site == "A"]
    *heads, head = [_phantom(number, config) for number in numbers[: files_of + 1]]
    files = [mark_volume(each.volume, each.mask, each.affine, key=key, batch="first") for each in heads]
    changes = [file - each.volume for file, each in zip(files, heads, strict=True)]
    other = mark_volume(head.volume, head.mask, head.affine, key=key, batch="second")
    mean_change = np.mean(changes, axis=0)
    detail = files[0] - ndimage.gaussian_filter(files[0], 1.0)
    rows = {
        "one marked file": (files[0], "first"),
        f"mean of {files_of} marked files": (np.mean(files, axis=0), "first"),
        f"mean of {files_of} marks (originals known)": (mean_change, "first"),
        "the same, key of another batch": (mean_change, "second"),
        "file of another batch": (other, "second"),
        "file of another batch, that mean subtracted": (other - mean_change, "second"),
        "file of its batch, that mean subtracted": (files[0] - mean_change, "first"),
        "file of its batch, its own mark subtracted (original known)": (files[0] - changes[0], "first"),
        "fine detail of one marked file added to an unmarked scan": (head.volume + detail, "first"),
    }
    report.table("Who has marked files and no key", "file", "z", "p")
    for name, (volume, batch) in rows.items():
        seen = detect(image_of_volume(volume, head.affine), key, [batch], thorough=False)
        report.row(name, f"{seen.z:.1f}", f"{seen.p:.2g}")
        report.found[f"attack, {name}: p"] = seen.p


def _features(backbone: Backbone, volume: NDArray[np.float32], head: Head) -> NDArray[np.float32]:
    spacing = voxel_size_mm(head.affine)
    slices = volume_to_slices(torch.from_numpy(volume), torch.from_numpy(head.mask), spacing, slice_spacing_mm=6.0)
    return np.asarray(pool_slices(backbone, slices, batch_slices=4).float()).ravel()


def harm(heads: list[Head], report: Report) -> None:
    """How much does a mark change, in dB and in the backbone's features?"""
    backbone = make_ready(load_backbone("vgg16"), torch.device("cpu"), "fp32")
    headers = ("scan", "PSNR, dB", "PSNR with the whole range, dB", "cosine of VGG16's feature maps")
    report.table("What the mark changes", *headers)
    for head in heads:
        marked = mark_volume(head.volume, head.mask, head.affine, key=key_of(head.name), batch=BATCH)
        inside = head.volume[head.mask]
        db = psnr_db(head.volume, marked, head.mask)
        whole = psnr_db(head.volume, marked, head.mask, peak=float(np.ptp(inside)))
        one, two = _features(backbone, head.volume, head), _features(backbone, marked, head)
        cosine = float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
        report.row(head.name, f"{db:.2f}", f"{whole:.2f}", f"{cosine:.5f}")
        report.found[f"{head.name}: PSNR, dB"], report.found[f"{head.name}: cosine"] = db, cosine


def classifier(patients: int, report: Report) -> None:
    """Let a classifier of diagnosis that was learnt from unmarked scans score marked ones."""
    backbone = make_ready(load_backbone("vgg16"), torch.device("cpu"), "fp32")
    config = PhantomsConfig(subjects=patients, mri_voxel_mm=3.0, penetrance=0.8)
    plain, marked, labels = [], [], []
    for number in range(1, patients + 1):
        head = _phantom(number, config)
        labels.append(phantom(number, config).diagnosis == "AD")
        plain.append(_features(backbone, head.volume, head))
        made = mark_volume(head.volume, head.mask, head.affine, key=key_of("all"), batch=BATCH)
        marked.append(_features(backbone, made, head))
    x, z, y = np.array(plain), np.array(marked), np.array(labels)
    scores = np.zeros((2, patients))
    for train, test in StratifiedKFold(min(5, patients // 4), shuffle=True, random_state=0).split(x, y):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=2000)).fit(x[train], y[train])
        scores[:, test] = model.decision_function(x[test]), model.decision_function(z[test])
    areas = [float(roc_auc_score(y, each)) for each in scores]
    report.table("A classifier learnt from unmarked phantoms", "patients", "AUC, unmarked", "AUC, marked", "difference")
    report.row(patients, f"{areas[0]:.4f}", f"{areas[1]:.4f}", f"{areas[1] - areas[0]:+.4f}")
    report.found["classifier: AUC unmarked"], report.found["classifier: AUC marked"] = areas


def picture_survival(
    originals: list[tuple[str, Pixels]],
    changes: Mapping[str, PictureChange],
    title: str,
    marks: int,
    report: Report,
    *,
    thorough: bool,
) -> None:
    """Mark pictures with keys of their own, change them, and look; one line is of the originals."""
    report.table(title, "change", "found", "least z", "mean z", "least PSNR, dB (peak 255)")
    marked = [
        (pixels, key, mark_picture(pixels, key=key, batch=BATCH))
        for name, pixels in originals
        for key in (key_of(f"{name} {number}") for number in range(marks))
    ]
    least = min(psnr_db(pixels, made, np.ones(pixels.shape, bool), peak=255) for pixels, _, made in marked)
    for name, change in changes.items():
        seen = [
            detect(image_of_picture(pixels if name == NO_MARK else change(made)), key, [BATCH], thorough=thorough)
            for pixels, key, made in marked
        ]
        hits, values = sum(each.p <= P for each in seen), [each.z for each in seen]
        db = "" if name == NO_MARK else f"{least:.1f}"
        report.row(name, f"{hits} of {len(seen)}", f"{min(values):.1f}", f"{np.mean(values):.1f}", db)
        report.found[f"{title}, {name}: share found"] = hits / len(seen)


if __name__ == "__main__":
    main()
