"""Every missing scan as the joint model imputes it, and how far its intervals can be trusted.

Quality is measured on test patients: each modality that one has is hidden and imputed from the others. What if scans
are missing for what they would have shown? Imputed scores are moved until conclusions change
(`pipeline.training.tipping`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from cohort.covariates import covariates_of
from cohort.origin import real_only
from console.errors import InputError
from evaluation.imputation import LEVELS, gaussian_coverage, gaussian_crps, rectified_coverage, rectified_crps
from models.joint.blocks import FloatArray
from models.joint.decoder import DecodedImage, Decoder
from models.joint.diffusion_model import DiffusionModel
from models.joint.model import JointModel, Patients
from models.settings import seed_of_repeat
from pipeline.core.runtime import Runtime
from pipeline.specs.impute import ImputeConfig
from pipeline.store.features import FeatureStore
from pipeline.store.imputed import BesideReal, Imputed, ImputedSet
from pipeline.store.joint import JointSet
from pipeline.store.made_images import DESCRIPTION, IMPUTED, image_file, spread_file
from pipeline.store.marking import Marker
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.grid_images import GridImages
from pipeline.training.imputed_scans import SMALLEST_SD, ImputedScan, hidden_scans, missing_scans, never_negative
from pipeline.training.joint_patients import (
    CovariateBlocks,
    chunks,
    joint_patients,
    learnt_from,
    observation_table,
    scores_of,
)
from pipeline.training.repeat_data import RepeatData, data_of_repeat, repeats_of, without_synthetic
from pipeline.training.tipping import SELECTION, TIPPING, RepeatScores, selection_table, tipping_table
from synthesis.grid import LEAST
from synthesis.grid import LEVELS as GREY_LEVELS

IMAGE_QUALITY = ("image_error", "image_error_without", "image_cover_90")
QUALITY = (
    "repeat", "modality", "observation", "subject", "from", "crps", "crps_without",
    *(f"cover_{round(100 * a)}" for a in LEVELS), "closed_90", *IMAGE_QUALITY,
)  # fmt: skip
NO_IMAGES = (
    "no images of missing scans: the joint model has no decoder for them (joint.decoder is none, it is of several "
    "sites, they are tables, or none could be learnt, as a note of the stage joint says)"
)
OF_LINEAR = (
    "joint.engine is diffusion: moves δ and stated reasons, with the AUC among them, are those of the linear model of "
    "the same patients, whose imputed scores are other ones than those written here"
)


def impute(
    cohort: CohortTables,
    split: SplitTables,
    preprocess: VolumeSet,
    features: FeatureStore,
    joint: JointSet,
    out: ImputedSet,
    config: ImputeConfig,
    runtime: Runtime,
) -> None:
    """Write mean, standard deviation and draws of each modality that an observation lacks; classes are not used."""
    out.begin()
    marker = Marker.ready(config.mark_key, config.mark_batch, setting="impute.mark_key", workspace=runtime.workspace)
    scans = real_only(cohort.scans())
    covariates = covariates_of(scans)
    kinds = scans.drop_duplicates("modality").set_index("modality")["kind"].to_dict()
    tables: dict[str, list[dict[str, Any]]] = {"imputed.csv": [], "quality.csv": [], "beside.csv": []}
    placed: list[RepeatScores] = []
    repeats = repeats_of(split)
    grid: GridImages | None = None
    with runtime.progress(len(repeats), "repeat") as progress:
        for repeat in repeats:
            data = without_synthetic(data_of_repeat(cohort, split, features, repeat), cohort)
            maps, model = feature_maps_of(data, features), joint.model(repeat).on(runtime.device)
            record, own = joint.record(repeat) or {}, joint.training_scores(repeat)
            if not record.get("feature_maps", True):
                raise InputError(
                    f"repeat {repeat}: the joint model of several sites was made without means of feature maps "
                    "(contribute.feature_maps false), so it places patients and imputes scores, but no feature map"
                )
            blocks = CovariateBlocks.from_json(record["covariates"]) if record.get("covariates") else None
            grid = grid or GridImages(preprocess, kinds, record["grid"]["spacing_mm"], record["grid"]["pixels"])
            decoders = joint.decoders(repeat) if config.images else {}
            floored = never_negative(data, maps)
            work = _Repeat(
                repeat, data, model, decoders, grid, tuple(record["feature_map_shape"]), out, config, floored
            )
            seed = seed_of_repeat(config.seed, repeat)
            random = np.random.default_rng([seed, 4])
            rows = observation_table(data, model)
            found: list[FloatArray] = []
            for names in chunks(rows.index.to_list()):
                patients = joint_patients(names, data, maps, blocks, covariates)
                scores = scores_of(model, patients, names, own)
                found.append(scores)
                for scan in missing_scans(
                    model, decoders, patients, scores, random, draws=config.draws, shown=config.images, floored=floored
                ):
                    given = model.covariates_given(scores[scan.row])
                    tables["imputed.csv"].append(work.write(scan, rows.loc[names[scan.row]], given, marker))
            once = ((rows["split"] != "train") | rows.index.isin(learnt_from(data))).to_numpy()
            placed.append(_placed(repeat, model, np.concatenate(found)[once], rows[once], record))
            random = np.random.default_rng([seed, 5])
            for names in chunks(rows.index[rows["split"] == "test"].to_list()):
                patients = joint_patients(names, data, maps, blocks, covariates)
                shown = work.shown_beside(rows.loc[names]) if repeat == repeats[0] and not tables["beside.csv"] else {}
                quality, beside = work.check(patients, rows.loc[names, "subject"], shown, random)
                tables["quality.csv"] += quality
                tables["beside.csv"] += beside
            progress.advance()
    columns = {"imputed.csv": out.COLUMNS, "quality.csv": QUALITY, "beside.csv": out.BESIDE}
    for name, made in tables.items():
        out.save_table(name, pd.DataFrame(made, columns=list(columns[name])))
    _tip(placed, out, config, runtime)
    _note(tables["imputed.csv"], marker, config, runtime)
    images = sum(row["images"] != "" for row in tables["imputed.csv"])
    runtime.results |= {
        "counts": {
            "imputed feature maps": len(tables["imputed.csv"]),
            "imputed images": images,
            "checked against a real one": len(tables["quality.csv"]),
        }
    }


def _placed(
    repeat: int, model: JointModel, scores: FloatArray, rows: pd.DataFrame, record: dict[str, Any]
) -> RepeatScores:
    """Return the patients of a repeat as conclusions are drawn from them; those of training once, as learnt from."""
    classes = tuple(record["classes"])
    labels = np.array([classes.index(label) for label in rows["label"]], dtype=np.int64)
    about = rows.reset_index()[["subject", "observation", "split"]]
    return RepeatScores(repeat, model, scores, about, labels, classes, "federated" in record)


def _tip(placed: Sequence[RepeatScores], out: ImputedSet, config: ImputeConfig, runtime: Runtime) -> None:
    """Write conclusions with imputed scores moved, and under stated reasons; empty tables where none is asked for."""
    tipping, notes = pd.DataFrame(columns=list(TIPPING)), list[str]()
    if config.deltas:
        tipping, notes = tipping_table(placed, config.deltas, config.along, config.seed)
    selection = pd.DataFrame(columns=list(SELECTION))
    if config.slopes:
        selection, more = selection_table(placed[0], config.slopes, config.along)
        notes += more
    if (config.deltas or config.slopes) and any(isinstance(each.model, DiffusionModel) for each in placed):
        notes.append(OF_LINEAR)
    out.save_table("tipping.csv", tipping)
    out.save_table("selection.csv", selection)
    runtime.notes += notes


def _note(made: Sequence[dict[str, Any]], marker: Marker, config: ImputeConfig, runtime: Runtime) -> None:
    """Say what was not imputed, and what is not marked."""
    if not made:
        runtime.note("no patient lacks a modality that the joint model knows; nothing was imputed")
    elif config.images and not any(row["images"] for row in made):
        runtime.note(NO_IMAGES)
    if any(row["images"] for row in made):
        for note in marker.notes():
            runtime.note(note)


@dataclass(frozen=True)
class _Repeat:
    """What is imputed in one repeat, and where it goes."""

    repeat: int
    data: RepeatData
    model: JointModel
    decoders: dict[str, Decoder]
    grid: GridImages
    shape: tuple[int, ...]
    out: ImputedSet
    config: ImputeConfig
    floored: frozenset[str]  # modalities whose features are never below 0

    def write(self, scan: ImputedScan, about: pd.Series, covariates: list[str], marker: Marker) -> dict[str, Any]:
        """Write feature map and images of one missing scan; return its row of `imputed.csv`.

        Args:
            scan: what was imputed.
            about: the observation, as `observation_table` has it.
            covariates: of it, that it was imputed from beside its scans.
            marker: of the images.
        """
        name, sd = str(about.name), torch.from_numpy(scan.sd)
        feature_map = Imputed(
            torch.from_numpy(scan.mean).view(self.shape),
            sd.view(self.shape),
            torch.from_numpy(scan.draws).float().view(-1, *self.shape),
        )
        file, content = self.out.save(self.repeat, name, scan.modality, feature_map)
        row = {
            "repeat": self.repeat, "observation": name, "subject": about["subject"], "split": about["split"],
            "modality": scan.modality, "from": "+".join(filter(None, (about["has"], *covariates))),
            "sd": float(sd.square().mean().sqrt()), "file": file, "sha256": content, "images": "",
        }  # fmt: skip
        if scan.image is not None:
            row["images"] = self.out.stem(IMPUTED, self.repeat, name, scan.modality)
            self._write_images(scan.image, row, marker)
        return row

    def _write_images(self, image: DecodedImage, row: dict[str, Any], marker: Marker) -> None:
        stem, kind = row["images"].rpartition("/")[2], self.grid.kinds[row["modality"]]
        size: dict[str, Any] = {"spacing_mm": self.grid.spacing_mm, "pixels": self.grid.pixels}
        facts = {
            "origin": IMPUTED, "observation": row["observation"], "modality": row["modality"], "from": row["from"],
            "repeat": self.repeat, "what": "expected by a joint model of training patients from what is named in from; "
            "never measured", "decoder": "pca", "seed": self.config.seed,
            "levels": 255 if kind == "image" else GREY_LEVELS,
        }  # fmt: skip
        drawn = {"mean": image.mean} | {f"draw {i + 1}": values for i, values in enumerate(image.draws)}
        for what, values in drawn.items():
            name = f"{stem}_{what.replace(' ', '-')}"
            file, content = image_file(values, name, kind, **size, marker=marker, description=DESCRIPTION.format(what))
            self.out.save_image(self.repeat, file, content, {**facts, "statistic": what, **marker.facts(name)})
        spread = "standard deviation"
        file, content = spread_file(image.sd, f"{stem}_sd", kind, **size, description=DESCRIPTION.format(spread))
        self.out.save_image(self.repeat, file, content, {**facts, "statistic": spread, "mark": None})

    def shown_beside(self, rows: pd.DataFrame) -> dict[str, set[str]]:
        """Return modality → test observations whose scan is shown beside what is imputed: classes in turn, by name."""
        found, scans = {}, self.data.scans
        for modality in self.decoders:
            able = rows.index.isin(scans.loc[scans["modality"] == modality, "observation"])
            others = scans["modality"].isin([name for name in self.model.bases if name != modality])
            able &= rows.index.isin(scans.loc[others, "observation"])
            turn = rows[able].sort_index().groupby("label").cumcount().sort_values(kind="stable")
            found[modality] = set(turn.index[: self.config.beside])
        return found

    def check(
        self, patients: Patients, subjects: pd.Series, shown: dict[str, set[str]], random: np.random.Generator
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return rows of `quality.csv` and of `beside.csv`; write the images of the latter.

        `subjects` is of each of the patients; its index is the name of the observation.

        `crps_without` is that of what the model says of somebody with the same covariates and without any scan: what
        the other scans add is the difference. `image_error_without` is that of the mean training scan.
        """
        quality, beside, names = [], [], subjects.index.to_list()
        bare = self.model.without_scans(self.model.scores(patients))
        without = {name: self.model.impute_scores(bare, name) for name in self.model.bases if len(bare)}
        real = {name: self.grid.of(self.data, tuple(names), only=name).get(name) for name in self.decoders}
        for scan in hidden_scans(self.model, self.decoders, patients, random, shown=self.config.images):
            others = [name for name in self.model.bases if name != scan.modality and patients.has(name)[scan.row]]
            others += self.model.covariates_given(bare[scan.row])
            flat, usual = (each[scan.row] for each in without[scan.modality])
            row = {
                "repeat": self.repeat, "modality": scan.modality, "observation": names[scan.row],
                "subject": subjects[names[scan.row]], "from": "+".join(others),
                **self._features(scan, patients.features[scan.modality][scan.row], flat, usual),
            }  # fmt: skip
            images = real.get(scan.modality)
            if scan.image is not None and images is not None:
                row |= self._image(scan, scan.image, images[scan.row])
                if names[scan.row] in shown.get(scan.modality, ()):
                    beside.append(self._beside(row, scan.image, images[scan.row]))
            quality.append(row)
        return quality, beside

    def _features(self, scan: ImputedScan, truth: np.ndarray, flat: np.ndarray, usual: np.ndarray) -> dict[str, float]:
        """Return CRPS and coverage; `flat` and `usual` are mean and standard deviation without any scan."""
        usual, sd = np.maximum(usual, SMALLEST_SD), np.maximum(scan.sd, SMALLEST_SD)
        floored = scan.modality in self.floored
        crps, coverage = (rectified_crps, rectified_coverage) if floored else (gaussian_crps, gaussian_coverage)
        covered = coverage(truth, scan.mean, sd)
        closed = rectified_coverage(truth, scan.mean, sd, closed=True) if floored else covered
        return {
            "crps": float(crps(truth, scan.mean, sd).mean()),
            "crps_without": float(crps(truth, flat, usual).mean()),
            **{f"cover_{round(100 * a)}": float(share) for a, share in zip(LEVELS, covered, strict=True)},
            "closed_90": float(closed[LEVELS.index(0.9)]),
        }

    def _image(self, scan: ImputedScan, image: DecodedImage, truth: np.ndarray) -> dict[str, float]:
        """Return errors (root mean square) and coverage where the mean training scan is no background."""
        usual = self.decoders[scan.modality].basis.centre
        inside = usual > LEAST if (usual > LEAST).any() else np.ones_like(usual, dtype=bool)
        off, off_without = (truth - image.mean)[inside], (truth - usual)[inside]
        sd = np.maximum(image.sd[inside], SMALLEST_SD)
        return {
            "image_error": float(np.sqrt((off.astype(np.float64) ** 2).mean())),
            "image_error_without": float(np.sqrt((off_without.astype(np.float64) ** 2).mean())),
            "image_cover_90": float(gaussian_coverage(truth[inside], image.mean[inside], sd, (0.9,))[0]),
        }

    def _beside(self, row: dict[str, Any], image: DecodedImage, truth: np.ndarray) -> dict[str, Any]:
        kind, shape = self.grid.kinds[row["modality"]], self.grid.shape_of(row["modality"])
        images = BesideReal(
            truth.reshape(shape), image.mean.reshape(shape), image.sd.reshape(shape), image.draws.reshape(-1, *shape)
        )
        file, content = self.out.save_beside(self.repeat, row["observation"], row["modality"], images)
        kept = {name: row[name] for name in ("repeat", "observation", "modality", "from")}
        return {
            **kept, "kind": kind, "error": row["image_error"], "error_without": row["image_error_without"],
            "file": file, "sha256": content,
        }  # fmt: skip
