"""Do the joint model's intervals cover, and is its CRPS better than that of ridge with its residual as spread?

On made data: scores of two blocks with shared factors, one hidden in test patients. On the feature maps of a workspace
(--workspace, after the stage features): each modality in turn (or only --hide) is hidden in all test patients and in
half of training, and imputed from the others. Ridge is the mean of its regressions from each modality that is there;
its spread for each feature is the root mean square of its residuals over five folds of training. Both are taken as
Gaussian, and, where training has no feature below 0, as what the stage impute takes them for: as at least 0.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.imputers import fit_ridge
from benchmarks.common import finish, options
from evaluation.imputation import (
    LEVELS,
    energy_score,
    gaussian_coverage,
    gaussian_crps,
    rectified,
    rectified_coverage,
    rectified_crps,
)
from models.joint.blocks import Blocks
from models.joint.model import JointConfig, JointModel, Patients, fit_model
from models.joint.posterior import draw, fit
from models.joint.sums import sums_of
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.imputed_scans import at_least_0
from pipeline.training.joint_patients import joint_patients, learnt_from, observation_table
from pipeline.training.repeat_data import data_of_repeat, repeats_of

Array = NDArray[np.float64]
Maps = NDArray[np.float32]
FOLDS = 5  # of ridge's residuals
DRAWS = 200  # of each test patient
ENERGY_DRAWS = 20
HIDDEN = 0.5  # share of training patients who lack the modality too


def main() -> None:
    """Measure, print and write."""
    parser = options(__doc__ or "")
    parser.add_argument("--patients", type=int, nargs="+", default=[20, 54, 200], help="of each made cohort")
    parser.add_argument("--workspace", type=Path, help="of a run after the stage features")
    parser.add_argument("--repeats", type=int, default=2, help="of the workspace's splits")
    parser.add_argument("--hide", nargs="+", help="modalities of the workspace; each in turn unless given")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.workspace is None:
        found = made(arguments)
    else:
        found = real(arguments.workspace, arguments.repeats, arguments.hide)
    finish("joint", found, arguments)


def made(arguments: argparse.Namespace) -> dict[str, Any]:
    """Coverage on Gaussian scores, by patients and by how strongly the blocks are linked."""
    found: dict[str, Any] = {}
    seeds = 2 if arguments.quick else 10
    for count in (20, 54) if arguments.quick else arguments.patients:
        for link in (0.4,) if arguments.quick else (0.0, 0.4, 0.8):
            for share in (0.0, HIDDEN):
                rows = np.mean([_made_once(count, link, share, seed) for seed in range(seeds)], axis=0)
                name = f"made, {count} patients, link {link:g}, {100 * share:g} % lack it"
                found |= {f"{name}: {100 * a:g} % interval": float(v) for a, v in zip(LEVELS, rows, strict=False)}
                found[f"{name}: 90 % interval, parameters as if known"] = float(rows[-1])
    return found


def _made_once(count: int, link: float, share: float, seed: int) -> Array:
    random = np.random.default_rng([seed, count])
    size = min(32, count // 3)
    blocks = Blocks(("seen", "hidden"), (size, size))
    decay = np.tile(1 / np.arange(1, size + 1) ** 0.7, 2)
    loading = random.standard_normal((2 * size, 4))
    loading *= np.sqrt(link) / np.linalg.norm(loading, axis=1, keepdims=True)
    root = np.linalg.cholesky(loading @ loading.T + (1 - link) * np.eye(2 * size)) * np.sqrt(decay)[:, None]
    mean = 0.4 * random.standard_normal((2, 2 * size)) * np.sqrt(decay)

    def patients(n: int) -> tuple[Array, NDArray[np.int64]]:
        labels = np.arange(n) % 2
        return mean[labels] + random.standard_normal((n, 2 * size)) @ root.T, labels

    rows, labels = patients(count)
    rows[random.permutation(count)[: int(share * count)], size:] = np.nan
    model = fit(sums_of(rows, labels, blocks, 2), seed=seed)
    tested, _ = patients(200)
    given = np.where(blocks.owner == 1, np.nan, tested)
    inside = []
    for plug_in in (False, True):
        drawn, _ = draw(model, given, DRAWS, random, plug_in=plug_in)
        tails = [(1 - level) / 2 for level in LEVELS]
        low, high = (
            np.quantile(drawn[:, :, size:], side, axis=0, method="weibull") for side in (tails, [1 - t for t in tails])
        )
        inside.append(((low <= tested[:, size:]) & (tested[:, size:] <= high)).mean(axis=(1, 2)))
    return np.append(inside[0], inside[1][LEVELS.index(0.9)])


def real(workspace: Path, most: int, hide: list[str] | None = None) -> dict[str, Any]:
    """Coverage and CRPS on the feature maps of a workspace, means over test patients and repeats."""
    cohort, split = CohortTables(workspace / "cohort"), SplitTables(workspace / "split")
    features = FeatureStore(workspace / "features")
    parts: dict[str, list[dict[str, float]]] = {}
    for repeat in repeats_of(split)[:most]:
        data = data_of_repeat(cohort, split, features, repeat)
        if unknown := set(hide or ()) - set(data.modalities):
            raise SystemExit(f"--hide {' '.join(sorted(unknown))}: the modalities are {', '.join(data.modalities)}")
        maps, table = feature_maps_of(data, features), observation_table(data)
        of = {"train": learnt_from(data), "test": table.index[table["split"] == "test"].to_list()}
        train, test = (joint_patients(names, data, maps, None, table) for names in of.values())
        labels = np.array([data.classes.index(label) for label in table.loc[of["train"], "label"]])
        for modality in hide or data.modalities:
            row = _hidden(train, test, labels, len(data.classes), modality, repeat, features.feature_map_shape())
            if row:
                parts.setdefault(modality, []).append(row)
    found: dict[str, Any] = {}
    for modality, rows in parts.items():
        for key in rows[0]:
            found[f"{modality} hidden: {key}"] = float(np.mean([row[key] for row in rows]))
        for one, other in (("joint", "ridge"), ("joint at least 0", "ridge at least 0"), ("joint at least 0", "ridge")):
            if f"{one}, CRPS" in rows[0]:
                change = [row[f"{one}, CRPS"] - row[f"{other}, CRPS"] for row in rows]
                found[f"{modality} hidden: CRPS, {one} minus {other}, lowest repeat"] = min(change)
                found[f"{modality} hidden: CRPS, {one} minus {other}, highest repeat"] = max(change)
    return found


def _hidden(
    train: Patients,
    test: Patients,
    labels: NDArray[np.int64],
    classes: int,
    modality: str,
    seed: int,
    shape: tuple[int, int, int],
) -> dict[str, float]:
    """Impute a modality of test patients from the others; it is hidden in half of training as well."""
    random = np.random.default_rng(seed)
    others = [name for name in train.features if name != modality]
    lose = random.random(len(train)) < HIDDEN
    lose &= np.any([train.has(name) for name in others], axis=0)
    learnt = _without(train, modality, lose)
    checked = np.flatnonzero(test.has(modality) & np.any([test.has(name) for name in others], axis=0))
    if len(checked) == 0 or learnt.has(modality).sum() < FOLDS:
        return {}
    truth = test.features[modality][checked]
    given = _without(test.rows(checked), modality, np.ones(len(checked), dtype=bool))
    started = time.perf_counter()
    model, _ = fit_model(learnt, labels, classes, JointConfig(seed=seed), shape=shape)
    mean, sd = model.impute(given, modality)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    ridge, spread = _ridge(learnt, given, modality, random)
    ridge_seconds = time.perf_counter() - started
    floor = 1e-6 * float(truth.std())
    sd, spread = np.maximum(sd, floor), np.maximum(spread, floor)
    drawn = model.draw(given, ENERGY_DRAWS, random, modalities=(modality,))[0][modality]
    row = {"training patients with it": float(learnt.has(modality).sum()), "test patients": float(len(checked))}
    known = learnt.features[modality][learnt.has(modality)]
    floored, varied = bool(known.min() >= 0), known.std(axis=0) > 0
    noisy = ridge + spread * random.standard_normal((ENERGY_DRAWS, *ridge.shape))
    drawn_of: dict[str, Maps] = {"joint": drawn, "ridge": noisy.astype(np.float32)}
    for name, (centre, width) in {"joint": (mean, sd), "ridge": (ridge, np.broadcast_to(spread, ridge.shape))}.items():
        covered = gaussian_coverage(truth, centre, width)
        row |= {f"{name}, {100 * a:g} % interval": float(v) for a, v in zip(LEVELS, covered, strict=True)}
        row[f"{name}, CRPS"] = float(gaussian_crps(truth, centre, width).mean())
        row[f"{name}, energy score"] = float(energy_score(truth, drawn_of[name]).mean())
        if floored:
            made = at_least_0(drawn_of[name], centre, width)
            told = _at_least_0(truth, centre, width, varied)
            row |= {f"{name} at least 0, {what}": value for what, value in told.items()}
            row[f"{name} at least 0, energy score"] = float(energy_score(truth, made).mean())
    return row | {"joint, seconds": seconds, "ridge, seconds": ridge_seconds} | _scores_covered(model, test, modality)


def _at_least_0(truth: Maps, mean: Maps, sd: Maps, varied: NDArray[np.bool_]) -> dict[str, float]:
    """Coverage and CRPS of features taken as at least 0: of all, of those that varied in training, of single kinds."""
    covered = rectified_coverage(truth, mean, sd)
    row = {f"{100 * a:g} % interval": float(v) for a, v in zip(LEVELS, covered, strict=True)}
    location, scale = rectified(mean, sd)
    kinds = {"that varied": np.broadcast_to(varied, truth.shape), "whose interval is above 0": location > 1.645 * scale}
    for kind, chosen in kinds.items():
        inside = rectified_coverage(truth[chosen], mean[chosen], sd[chosen], (0.9,))[0]
        row |= {f"share of features {kind}": float(chosen.mean()), f"90 % interval, features {kind}": float(inside)}
    row["90 % interval, closed"] = float(rectified_coverage(truth, mean, sd, (0.9,), closed=True)[0])
    return row | {"CRPS": float(rectified_crps(truth, mean, sd).mean())}


def _scores_covered(model: JointModel, test: Patients, modality: str) -> dict[str, float]:
    """Coverage of the scores alone, without what lies outside of the basis."""
    rows, part = model.scores(test), model.blocks.slice_of(modality)
    given = rows.copy()
    given[:, part] = np.nan
    chosen = ~np.isnan(rows[:, part]).any(axis=1) & ~np.isnan(given).all(axis=1)
    drawn, _ = draw(model.gaussian, given[chosen], DRAWS, np.random.default_rng(0))
    low, high = np.quantile(drawn[:, :, part], [0.05, 0.95], axis=0, method="weibull")
    inside = (low <= rows[chosen][:, part]) & (rows[chosen][:, part] <= high)
    return {"joint, 90 % interval of scores": float(inside.mean())}


def _without(patients: Patients, modality: str, lose: NDArray[np.bool_]) -> Patients:
    hidden = np.where(lose[:, None], np.float32(np.nan), patients.features[modality])
    return Patients({**patients.features, modality: hidden}, patients.covariates)


def _ridge(train: Patients, given: Patients, modality: str, random: np.random.Generator) -> tuple[Maps, Maps]:
    """Return what ridge makes of patients, (n, D), and its spread, (D,)."""
    target = torch.from_numpy(train.features[modality])
    made, errors = [], []
    for name in train.features:
        both = np.flatnonzero(train.has(modality) & train.has(name))
        if name == modality or len(both) < 2 * FOLDS:
            continue
        source = torch.from_numpy(train.features[name])
        fitted = fit_ridge(source[both], target[both])
        has = given.has(name)
        filled = np.full((len(given), target.shape[1]), np.nan, dtype=np.float32)
        filled[has] = fitted(torch.from_numpy(given.features[name][has])).float().numpy()
        made.append(filled)
        fold = random.permutation(len(both)) % FOLDS
        left = np.full((len(train), target.shape[1]), np.nan, dtype=np.float32)
        for held in range(FOLDS):
            inside, out = both[fold != held], both[fold == held]
            predicted = fit_ridge(source[inside], target[inside])(source[out]).float()
            left[out] = (target[out] - predicted).numpy()
        errors.append(left)
    if not made:  # no pairs: the mean of those who have it
        known = train.features[modality][train.has(modality)]
        return np.repeat(known.mean(axis=0)[None], len(given), axis=0), known.std(axis=0)
    stacked = np.stack(errors)
    known = ~np.isnan(stacked[:, :, 0])
    residual = np.where(known[:, :, None], stacked, 0).sum(0)[known.any(0)] / known.sum(0)[known.any(0)][:, None]
    return np.nanmean(np.stack(made), axis=0), np.sqrt((residual**2).mean(axis=0))


if __name__ == "__main__":
    main()
