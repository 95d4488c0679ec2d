"""Judge synthetic patients against training patients and held-out ones; release them, or refuse to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort.covariates import covariates_of
from cohort.origin import ACCEPTED, COPIES, NOT_JUDGED, PASSED, real_only
from console.errors import PreconditionError
from evaluation.generated.judgement import FEWEST, Judgement, judge, only_closeness
from evaluation.generated.neighbours import AT_ONCE, FEWEST_PATIENTS, Memorisation
from evaluation.generated.usefulness import train_on_generated
from pipeline.core.runtime import Runtime
from pipeline.specs.judge import JudgeConfig
from pipeline.specs.synthesise import SynthesiseConfig
from pipeline.store.features import FeatureStore
from pipeline.store.synthetic import JudgementTables, SyntheticCohort
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.grid_images import GridImages
from pipeline.training.joint_patients import Part, part_of_repeat
from pipeline.training.repeat_data import RepeatData, data_of_repeat, without_synthetic
from pipeline.training.unseen_space import MOST as MOST_UNSEEN
from pipeline.training.unseen_space import PICTURES, VOLUMES, UnseenSpace
from preprocessing.pictures import read_picture
from preprocessing.volumes import read_volume
from reporting.synthetic_page import wall
from synthesis.grid import LEVELS, picture_of, preview, volume_of

FEATURES, IMAGES = "features", "images"  # spaces
SHOWN = 16  # images on a wall
MOST = 1000  # synthetic scans of a modality judged; more would not change the figures. Copies are looked for among all
Rows = NDArray[np.float64]


def judge_synthetic(
    cohort: CohortTables,
    split: SplitTables,
    preprocess: VolumeSet,
    features: FeatureStore,
    synthesise: SyntheticCohort,
    parameters: str | Path | None,
    out: JudgementTables,
    config: JudgeConfig,
    runtime: Runtime,
) -> None:
    """Write what was found in each space, the list of copies, and the manifest with the verdict in every row.

    Raises:
        PreconditionError: nothing could be judged, for want of held-out patients.
    """
    out.begin()
    made, drawn = synthesise.facts(), synthesise.drawn()
    data = without_synthetic(data_of_repeat(cohort, split, features, made["repeat"]), cohort)
    kinds = cohort.scans().drop_duplicates("modality").set_index("modality")["kind"].to_dict()
    maps = feature_maps_of(data, features)
    table = covariates_of(real_only(cohort.scans()))
    train, held_out = (part_of_repeat(data, maps, parts, None, table) for parts in (["train"], ["validation", "test"]))
    channels = {m: synthesise.features(m).mean(axis=(2, 3)).astype(np.float64) for m in made["modalities"]}
    subject_of = data.scans.drop_duplicates("observation").set_index("observation")["subject"]
    learnt, tested = ([str(subject_of[name]) for name in part.observations] for part in (train, held_out))
    found = Comparisons(train.observations, learnt, tested, drawn, config, runtime)
    walls: list[tuple[str, bytes, bytes]] = []
    grid = SynthesiseConfig(spacing_mm=made["spacing_mm"], pixels=made["pixels"])
    folder = parameters if isinstance(parameters, Path) else None
    space = UnseenSpace(spacing_mm=grid.spacing_mm, pixels=grid.pixels, parameters=folder)
    left_out: list[str] = []
    with runtime.progress(len(made["modalities"]) + len(made["images"]), "comparison") as progress:
        for modality in made["modalities"]:
            seen, unseen = (_means(part, modality, made["shape"]) for part in (train, held_out))
            found.add(FEATURES, modality, seen, unseen, channels[modality])
            progress.advance()
        for modality in made["images"]:
            seen, unseen = (
                _pixels(data, preprocess, part, modality, kinds[modality], grid) for part in (train, held_out)
            )
            paths = drawn[drawn["modality"] == modality].sort_values("row")["path"].to_list()
            synthetic = _images(synthesise, paths[:MOST], kinds[modality])
            further = (
                _images(synthesise, paths[start : start + AT_ONCE], kinds[modality])
                for start in range(MOST, len(paths), AT_ONCE)
            )
            if shown := _wall(modality, kinds[modality], unseen, synthetic, grid):
                walls.append(shown)
            found.add(IMAGES, modality, *_principal(seen, unseen, synthetic, further))
            if config.unseen and not (why := space.why_not(kinds[modality])):
                name = PICTURES if kinds[modality] == "image" else VOLUMES
                sides = (seen, unseen, synthetic[:MOST_UNSEEN])
                found.add(name, modality, *(space.features(rows, kinds[modality]) for rows in sides))
                if len(paths) > MOST_UNSEEN:
                    runtime.note(f"{modality}, {name}: {MOST_UNSEEN} of {len(paths):,} synthetic scans were looked at")
            else:
                left_out.append(f"{modality}: {why if config.unseen else 'judge.unseen is false'}")
            progress.advance()
    if not found.judgements:
        raise PreconditionError(
            f"nothing can be judged: it takes scans of {FEWEST} training, {FEWEST} held-out and {FEWEST} synthetic "
            "patients of a modality. Draw more patients (synthesise.patients), or give the split more held-out ones"
        )
    verdict = found.verdict()
    judged = {modality for _, modality in found.judgements}
    if not_judged := [name for name in made["modalities"] if name not in judged]:
        runtime.note(
            f"{', '.join(not_judged)}: judged in no space, so not released: these rows of judge/manifest.csv say no, "
            "and the cohort refuses them. Leave them out, or give the split more held-out patients"
        )
    transfer, predictions = _transfer(train, held_out, channels, drawn, made, tested)
    facts = {
        "verdict": verdict, "refused": verdict == COPIES, "too_many": found.too_many(),
        "most_copied": config.most_copied, "repeat": made["repeat"], "patients": int(drawn["subject"].nunique()),
        "judgements": found.plain(), "transfer": transfer,
        "walls": [name for name, _, _ in walls], "left_out": left_out, "not_judged": not_judged,
        "only_searched": found.only_searched(),
    }  # fmt: skip
    manifest = synthesise.rows()
    manifest["judged"] = [verdict if name in judged else NOT_JUDGED for name in manifest["modality"]]
    manifest["path"] = [f"../{synthesise.folder.name}/{path}" for path in manifest["path"]]
    out.save_walls(walls)
    out.save(facts, pd.DataFrame(found.copies, columns=list(JudgementTables.COPY_COLUMNS)), manifest, predictions)
    runtime.results |= {"counts": {"comparisons": len(found.judgements), "copies": len(found.copies)}}


@dataclass
class Comparisons:
    """Synthetic scans against real ones, a modality and space at a time.

    Attributes:
        observations: of training, in the order of its rows.
        learnt: subject of each row of training.
        tested: subject of each held-out row.
        drawn: the table of synthetic scans.
        config: limits.
        runtime: for notes.
        judgements: (space, modality) → what was found.
        closeness: the same, of closeness to training scans alone, for which fewer patients are enough.
        copies: rows of `copies.csv`.
    """

    observations: tuple[str, ...]
    learnt: list[str]
    tested: list[str]
    drawn: pd.DataFrame
    config: JudgeConfig
    runtime: Runtime
    judgements: dict[tuple[str, str], Judgement] = field(default_factory=dict)
    closeness: dict[tuple[str, str], Memorisation] = field(default_factory=dict)
    copies: list[dict[str, Any]] = field(default_factory=list)

    def add(self, space: str, modality: str, train: Rows, held_out: Rows, generated: Rows) -> None:
        """Judge one modality in one space, or look for copies alone; rows of NaN stand for observations without it."""
        in_training, in_held_out = _there(train), _there(held_out)
        learnt = [name for name, there in zip(self.learnt, in_training.tolist(), strict=True) if there]
        tested = [name for name, there in zip(self.tested, in_held_out.tolist(), strict=True) if there]
        counts = [len(set(learnt)), len(set(tested)), len(generated)]
        rows = train[in_training], held_out[in_held_out], generated
        by_column, seed = space != IMAGES, self.config.seed
        if min(counts) >= FEWEST:
            result = judge(*rows, subjects=(learnt, tested), by_column=by_column, seed=seed, most=MOST)
            self.judgements[space, modality] = result
            found = result.memorisation
        else:
            said = (
                f"{modality}, {space}: not judged with scans of {counts[0]} training, {counts[1]} held-out and "
                f"{counts[2]} synthetic patients; it takes {FEWEST} of each"
            )
            if counts[0] < FEWEST_PATIENTS or 0 in counts:
                self.runtime.note(said)
                return
            found = only_closeness(*rows, subjects=(learnt, tested), by_column=by_column, seed=seed)
            self.runtime.note(f"{said}. Copies were looked for: {len(found.copies)} of {counts[2]} synthetic scans are")
        self.closeness[space, modality] = found
        scans = self.drawn[self.drawn["modality"] == modality].sort_values("row")["scan"].to_list()
        names = [name for name, there in zip(self.observations, in_training.tolist(), strict=True) if there]
        self.copies += [
            {"scan": scans[copy.generated], "space": space, "modality": modality,
             "training_observation": names[copy.training], "distance": copy.distance, "ratio": copy.ratio}
            for copy in found.copies
        ]  # fmt: skip

    def too_many(self) -> list[str]:
        """Return modalities and spaces with more copies than allowed."""
        limit = self.config.most_copied
        return sorted(f"{m} ({s})" for (s, m), each in self.closeness.items() if each.copied > limit)

    def only_searched(self) -> list[dict[str, Any]]:
        """Return where nothing but copies was looked for, and the share that are."""
        return [
            {"space": space, "modality": modality, "copied": each.copied}
            for (space, modality), each in self.closeness.items()
            if (space, modality) not in self.judgements
        ]

    def verdict(self) -> str:
        """Return the verdict, and note why if it is not `PASSED`."""
        if not (too_many := self.too_many()):
            return PASSED
        after = (
            "they are released all the same (judge.accept_copies)"
            if self.config.accept_copies
            else "the cohort refuses such a manifest; draw others, or release them all the same with --accept-copies"
        )
        self.runtime.note(
            f"more than {self.config.most_copied:.0%} of the synthetic scans are copies of training patients: "
            f"{', '.join(too_many)}. They are listed in judge/copies.csv; {after}"
        )
        return ACCEPTED if self.config.accept_copies else COPIES

    def plain(self) -> list[dict[str, Any]]:
        """Return the figures for JSON, without the copies, which have a table of their own."""
        result = []
        for (space, modality), each in self.judgements.items():
            facts = each.as_dict()
            facts["memorisation"].pop("copies")
            result.append(
                {"space": space, "modality": modality, "findings": each.findings(self.config.most_copied), **facts}
            )
        return result


def _there(rows: Rows) -> NDArray[np.bool_]:
    """Return the rows that are not NaN, (n,)."""
    return np.asarray(np.isfinite(rows).all(axis=1), dtype=np.bool_)


def _pixels(
    data: RepeatData, preprocess: VolumeSet, part: Part, modality: str, kind: str, grid: SynthesiseConfig
) -> Rows:
    """Return the voxels or pixels of real images, (n, D), NaN where there is none."""
    images = GridImages(preprocess, {modality: kind}, grid.spacing_mm, grid.pixels)
    found = images.of(data, part.observations, only=modality).get(modality)
    return np.full((len(part.observations), 1), np.nan) if found is None else found.astype(np.float64)


def _means(part: Part, modality: str, shape: list[int]) -> Rows:
    """Return the channel means of one modality, (n, C), NaN where there is no scan."""
    rows = part.patients.features.get(modality)
    if rows is None:
        return np.full((len(part.observations), shape[0]), np.nan)
    return rows.reshape(len(rows), *shape).mean(axis=(2, 3)).astype(np.float64)


def _images(synthesise: SyntheticCohort, paths: Iterable[str], kind: str) -> Rows:
    """Return the voxels or pixels of synthetic images in [0, 1], (n, D)."""
    values = []
    for path in map(synthesise.image, paths):
        if kind == "image":
            values.append(read_picture(path).pixels.astype(np.float64).ravel() / 255)
        else:
            values.append(read_volume(path)[0].numpy().astype(np.float64).ravel() / LEVELS)
    return np.stack(values)


def _wall(
    modality: str, kind: str, held_out: Rows, generated: Rows, grid: SynthesiseConfig
) -> tuple[str, bytes, bytes] | None:
    """Return modality, pictures of some held-out scans, and of as many synthetic ones; None without any."""
    held_out = held_out[_there(held_out)]
    count = min(SHOWN, len(held_out), len(generated))
    if count == 0:
        return None
    pictures = []
    for rows in (held_out, generated):
        values = rows[:count].astype(np.float32)
        tiles = (
            [picture_of(each, side=grid.pixels) for each in values]
            if kind == "image"
            else [preview(volume_of(each, spacing_mm=grid.spacing_mm)) for each in values]
        )
        pictures.append(wall(tiles))
    return modality, pictures[0], pictures[1]


def _principal(train: Rows, held_out: Rows, generated: Rows, further: Iterable[Rows] = ()) -> tuple[Rows, Rows, Rows]:
    """Turn voxels into coordinates along all that differs among these rows: distances stay as they are, columns few.

    Each row of NaN stays one. Without turning, 100,000 voxels would be standardised one by one, the empty ones too.
    Further generated rows come below the others: what they have outside of these directions is a column of its own, so
    that their distances to all other rows stay as they are too, but not those among themselves.
    """
    sides = (train, held_out, generated)
    have = [_there(side) for side in sides]
    rows = np.vstack([side[there] for side, there in zip(sides, have, strict=True) if there.any()])
    centre = rows.mean(axis=0)
    centred = rows - centre
    values, vectors = np.linalg.eigh(centred @ centred.T)
    kept = values > 1e-9 * max(float(values[-1]), np.finfo(float).tiny)
    turned = vectors[:, kept] * np.sqrt(values[kept])
    out, start = [], 0
    for side, there in zip(sides, have, strict=True):
        full = np.full((len(side), turned.shape[1]), np.nan)
        full[there] = turned[start : start + int(there.sum())]
        start += int(there.sum())
        out.append(full)
    more = []
    for some in further:
        inside = (some - centre) @ centred.T @ (vectors[:, kept] / np.sqrt(values[kept]))
        squares = ((some - centre) ** 2).sum(axis=1) - (inside**2).sum(axis=1)
        more.append(np.column_stack([inside, np.sqrt(np.maximum(squares, 0))]))
    if more:
        out = [np.column_stack([side, np.where(there, 0.0, np.nan)]) for side, there in zip(out, have, strict=True)]
        out[2] = np.vstack([out[2], *more])
    return out[0], out[1], out[2]


def _transfer(
    train: Part,
    held_out: Part,
    channels: Mapping[str, Rows],
    drawn: pd.DataFrame,
    made: Mapping[str, Any],
    tested: list[str],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train on synthetic patients and on real ones, test both on held-out ones, whose subjects are `tested`."""
    subjects = sorted(drawn["subject"].unique())
    place = {name: i for i, name in enumerate(subjects)}
    label = drawn.drop_duplicates("subject").set_index("subject")["label"]
    columns: dict[str, list[Rows]] = {"train": [], "generated": [], "held_out": []}
    for modality, rows in channels.items():
        synthetic = np.full((len(subjects), rows.shape[1]), np.nan)
        mine = drawn[drawn["modality"] == modality].sort_values("row")
        synthetic[[place[name] for name in mine["subject"]]] = rows
        real, held = (_means(part, modality, made["shape"]) for part in (train, held_out))
        centre = np.nanmean(real, axis=0)
        for name, side in (("train", real), ("generated", synthetic), ("held_out", held)):
            columns[name].append(np.where(np.isnan(side), 0.0, side - centre))  # missing: as if average
    target = np.array([made["classes"].index(label[name]) for name in subjects], dtype=np.int64)
    sides = {name: np.concatenate(each, axis=1) for name, each in columns.items()}
    result, tables = train_on_generated(
        (sides["train"], train.labels),
        (sides["generated"], target),
        (sides["held_out"], held_out.labels),
        classes=len(made["classes"]),
        subjects=tested,
    )
    named = {name: table.assign(observation=list(held_out.observations)) for name, table in tables.items()}
    predictions = [table.assign(trained_on=name) for name, table in named.items()]
    nothing = pd.DataFrame(columns=["trained_on", "repeat", "subject", "observation", "truth"])
    return dict(vars(result)), pd.concat(predictions, ignore_index=True) if predictions else nothing
