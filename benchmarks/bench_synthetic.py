"""Are generators told for what they are, and do synthetic phantoms have the regions of real ones?

    python -m benchmarks.bench_synthetic
    python -m benchmarks.bench_synthetic --workspace runs/demo      # after --stages synthesise,judge

The first judges four generators on rows with few directions of large variance. The second compares means of regions,
in units of the brain's, of synthetic phantoms with those of all real ones by Kolmogorov and Smirnov's test; where
regions are is that of `demo.phantoms`, the middle of the brain taken as the centre of the template's.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from benchmarks.common import finish, options
from evaluation.generated.judgement import judge
from pipeline.store.synthetic import SyntheticCohort
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from preprocessing.volumes import read_volume
from synthesis.grid import LEVELS, box_affine, box_shape, onto_box

TRAIN, HELD_OUT, MADE, COLUMNS, HIDDEN, SEEDS = 54, 54, 200, 64, 16, 12
CENTRE_MM = (0.0, -18.0, 10.0)  # of the template's brain
REGIONS = {
    "ventricles": ("MRI", [(0, -12, 16)], (20, 34, 14)),
    "hippocampi": ("MRI", [(-26, -22, -16), (26, -22, -16)], (11, 18, 11)),
    "frontal lobes": ("MRI", [(0, 40, 20)], (30, 18, 24)),
    "hypometabolic regions": ("PET", [(-50, -58, 34), (50, -58, 34), (0, -52, 30)], (20, 22, 26)),
    "frontal lobes, PET": ("PET", [(0, 40, 20)], (30, 18, 24)),
}
Values = NDArray[np.float64]


def people(count: int, random: np.random.Generator) -> Values:
    """Draw rows, (count, COLUMNS)."""
    mix = np.random.default_rng(0).normal(0, 1, (HIDDEN, COLUMNS)) * np.geomspace(1, 0.2, HIDDEN)[:, np.newaxis]
    rows: Values = random.normal(0, 1, (count, HIDDEN)) @ mix + 0.3 * random.normal(0, 1, (count, COLUMNS))
    return rows


def generators(seeds: int) -> pd.DataFrame:
    """Return the mean figures of four generators, a row each."""
    rows = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        train, held_out, honest = people(TRAIN, random), people(HELD_OUT, random), people(MADE, random)
        noise = 0.05 * train.std(axis=0) * random.normal(0, 1, honest.shape)
        copies = train[random.integers(0, TRAIN, MADE)] + noise
        half = np.vstack([honest[: MADE // 2], copies[MADE // 2 :]])
        made = {"honest": honest, "copies + 5 % noise": copies, "half copies": half, "shrunk to 70 %": 0.7 * honest}
        for name, generated in made.items():
            found = judge(train, held_out, generated, seed=seed)
            near = found.memorisation
            rows.append(
                {"generator": name, "AuthPct": 100 * near.authentic, "C_T": near.c_t, "nearer": 100 * near.nearer,
                 "copies": 100 * near.copied, "FD train": found.frechet_train.value,
                 "FD train null": found.frechet_train.null, "FD held-out": found.frechet_held_out.value,
                 "FD held-out null": found.frechet_held_out.null, "variance": found.variance[0]}
            )  # fmt: skip
    return pd.DataFrame(rows).groupby("generator", sort=False).mean()


def regions(workspace: Path) -> Iterator[dict[str, object]]:
    """Yield means of regions, real and synthetic, of each class."""
    scans, volumes = CohortTables(workspace / "cohort").scans(), VolumeSet(workspace / "preprocess")
    synthetic = SyntheticCohort(workspace / "synthesise")
    splits = SplitTables(workspace / "split").splits()
    repeat = synthetic.facts()["repeat"]
    train = set(splits.query(f"repeat == {repeat} and split == 'train'")["subject"])
    shape, affine = box_shape(4.0), box_affine(4.0)
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) * 4.0 + affine[:3, 3]
    for modality in ("MRI", "PET"):
        rows = scans[(scans["modality"] == modality) & scans["scan"].isin(volumes.scans())]
        real = [onto_box(*volumes.load_placed(scan)) for scan in rows["scan"]]
        trained = rows["subject"].isin(train).to_numpy()
        brain = np.mean([volume for volume, there in zip(real, trained, strict=True) if there], axis=0) > 0.2
        drawn = synthetic.drawn().query(f"modality == '{modality}'")
        made = [read_volume(synthetic.image(path))[0].numpy() / LEVELS for path in drawn["path"]]
        for name, (of, centres, radii) in REGIONS.items():
            if of != modality:
                continue
            inside = np.any([(((place - (np.array(c) - CENTRE_MM)) / radii) ** 2).sum(-1) < 1 for c in centres], axis=0)
            means = [np.array([v[inside].mean() / v[brain].mean() for v in each]) for each in (real, made)]
            for label in sorted(set(rows["label"])):
                one = means[0][(rows["label"] == label).to_numpy()]
                other = means[1][(drawn["label"] == label).to_numpy()]
                yield {
                    "region": name, "class": label, "real": f"{one.mean():.3f} ± {one.std(ddof=1):.3f} ({len(one)})",
                    "synthetic": f"{other.mean():.3f} ± {other.std(ddof=1):.3f} ({len(other)})",
                    "p": round(float(stats.ks_2samp(one, other).pvalue), 3),
                }  # fmt: skip


def main() -> None:
    """Print tables."""
    parser = options(__doc__ or "")
    parser.add_argument("--workspace", type=Path, help="a demo with synthetic patients, for the regions")
    arguments = parser.parse_args()
    if arguments.workspace:
        rows = list(regions(arguments.workspace))
        print(pd.DataFrame(rows).to_string(index=False))
        found = {f"{row['region']}, {row['class']}: p": float(str(row["p"])) for row in rows}
    else:
        table = generators(1 if arguments.quick else SEEDS)
        print(table.round(2).to_string())
        found = {f"{name}: {figure}": float(value) for (name, figure), value in table.stack().items()}
    finish("synthetic", found, arguments)


if __name__ == "__main__":
    main()
