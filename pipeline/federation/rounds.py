"""A federated training of HyperMM as a job, and a site's part of it from its workspace after the stage features."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from console.errors import InputError
from models.federated_hypermm import Arrays, Layout, LocalSite, Rounds, predict
from models.hypermm import Scans, Sets
from pipeline.core.provenance import digest
from pipeline.federation.plan import differences
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.repeat_data import RepeatData, data_of_repeat, without_synthetic
from pipeline.training.repeat_data import Sets as Observations

FORMAT = "hypermm-rounds/2"


@dataclass(frozen=True)
class Job:
    """What all sites of a training do alike.

    Attributes:
        plan: classes, modalities, and how feature maps are made.
        rounds: of training.
        repeat: whose training patients are learnt from.
        timeout_s: that a round may take; a site that is later is left out of it.
    """

    plan: dict[str, Any]
    rounds: Rounds
    repeat: int
    timeout_s: int

    @property
    def settings(self) -> str:
        """Hash of the plan and of the rounds."""
        return digest([self.plan, asdict(self.rounds), self.repeat])

    @property
    def layout(self) -> Layout:
        """What the networks are made for."""
        channels, height, width = self.plan["feature_map_shape"]
        names = tuple(self.plan["modalities"])
        return Layout(len(names), len(self.plan["classes"]), (channels, height, width), names)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for `from_json`."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Job":
        """Return the job of `to_json`.

        Raises:
            InputError: it is none.
        """
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']!r}; this program reads {FORMAT}")
            job = cls(values["plan"], Rounds(**values["rounds"]), int(values["repeat"]), int(values["timeout_s"]))
            _ = job.layout
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is no job of a federated training: {error!r}") from error
        return job


class Patience:
    """How long a round waits for a site that sent nothing in the last one, so that one dead site does not cost all.

    Of such sites none has to answer: once as many have as sent something last time, the round goes on for `SPARE_S` and
    `TIMES` the longest that a site has worked on an answer, and not until its time is up. A site that is back in this
    time is waited for again.

    Attributes:
        silent: sites that sent nothing in the last round.
        longest_s: seconds that a site has worked on an answer, the longest.
    """

    TIMES, SPARE_S = 3, 10

    def __init__(self) -> None:
        self.silent: frozenset[str] = frozenset()
        self.longest_s = 0.0

    def waits(self, asked: Collection[str], timeout_s: int) -> tuple[int, int]:
        """Return how many have to answer, 0 for all of them, and the seconds that the round goes on then."""
        absent = self.silent.intersection(asked)
        if not absent or len(absent) == len(asked):
            return 0, 0
        return len(asked) - len(absent), min(timeout_s, math.ceil(self.TIMES * self.longest_s) + self.SPARE_S)

    def note(self, asked: Collection[str], seconds: Mapping[str, float]) -> None:
        """Note who answered in a round: site → seconds that it says it worked on it."""
        self.silent = frozenset(asked) - seconds.keys()
        self.longest_s = max([self.longest_s, *(each for each in seconds.values() if math.isfinite(each))])


def plan_of_workspace(workspace: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return how the feature maps of a workspace were made, as its stages recorded it.

    Raises:
        InputError: a stage is not finished there.
    """
    made = {}
    for name, artifact in (("cohort", CohortTables), ("preprocess", VolumeSet), ("features", FeatureStore)):
        manifest = artifact(workspace / name).manifest
        if manifest is None or "settings" not in manifest.get("made_from", {}):
            raise InputError(f"{workspace} has no finished stage {name}; run --stages features there first")
        made[name] = manifest["made_from"]
    modalities = made["cohort"]["settings"]["modalities"]
    kept = ("kind", "skull_strip", "normalise")
    if tables := [name for name, each in modalities.items() if each["kind"] == "table"]:
        raise InputError(f"{', '.join(tables)}: tables are coded by each site's own patients, so weights do not fit")
    return {
        "classes": list(classes),
        "modalities": {name: {k: each[k] for k in kept} for name, each in sorted(modalities.items())},
        "feature_map_shape": list(FeatureStore(workspace / "features").feature_map_shape()),
        **{
            name: {k: made[name].get(k) for k in ("settings", "external", "version")}
            for name in ("preprocess", "features")
        },
    }


def job_of_workspace(
    workspace: Path, rounds: Rounds, *, repeat: int, timeout_s: int, classes: tuple[str, ...] = ()
) -> Job:
    """Return a job for all sites whose feature maps are made as those of a workspace."""
    cohort = CohortTables(workspace / "cohort")
    return Job(plan_of_workspace(workspace, classes or cohort.classes()), rounds, repeat, timeout_s)


class WorkspaceSite:
    """A site, from its workspace.

    Args:
        name: of the site.
        workspace: after the stage features.
        job: of the training.

    Attributes:
        settings: hash of what this site would do; the job's if they fit together.
        wrong: the entries of the plan that differ.
        local: the site's part; None if something differs.
    """

    def __init__(self, name: str, workspace: Path, job: Job) -> None:
        own = Job(plan_of_workspace(workspace, tuple(job.plan["classes"])), job.rounds, job.repeat, job.timeout_s)
        self.settings, self.wrong = own.settings, differences(job.plan, own.plan)
        self.local: LocalSite | None = None
        if self.wrong:
            return
        cohort, features = CohortTables(workspace / "cohort"), FeatureStore(workspace / "features")
        data = data_of_repeat(cohort, SplitTables(workspace / "split"), features, job.repeat)
        self.data = without_synthetic(data, cohort)  # as in `contribute`
        if unknown := sorted(set(self.data.scans["label"]) - set(job.plan["classes"])):
            raise InputError(
                f"the job knows {', '.join(job.plan['classes'])}; patients here are {', '.join(unknown)} too"
            )
        self.job = job
        self.scans, self.sets, self.observations = _tensors(self.data, job, features)
        self.local = LocalSite(name, own.settings, job.layout, self.scans, self.sets, job.rounds)

    def predictions(self, extractor: Arrays, classifier: Arrays) -> pd.DataFrame:
        """Return a row for each test observation: observation, truth, a probability for each class."""
        found = predict(self.job.layout, extractor, classifier, self.scans, self.sets).numpy()
        first = self.data.scans.drop_duplicates("observation").set_index("observation")
        table = pd.DataFrame(found, columns=[f"probability_{name}" for name in self.job.plan["classes"]])
        table.insert(0, "truth", [first["label"][name] for name in self.observations])
        table.insert(0, "observation", list(self.observations))
        return table[[first["split"][name] == "test" for name in self.observations]].reset_index(drop=True)


def _tensors(data: RepeatData, job: Job, features: FeatureStore) -> tuple[Scans, Sets, tuple[str, ...]]:
    """Return single scans and sets, with modalities and classes numbered as in the job."""
    modalities, classes = list(job.plan["modalities"]), list(job.plan["classes"])
    table = data.scans
    maps = feature_maps_of(data, features).load(table["scan"].to_list())
    modality = torch.tensor([modalities.index(name) for name in table["modality"]], dtype=torch.int64)
    target = torch.tensor([classes.index(name) for name in table["label"]], dtype=torch.int64)
    scans = Scans(maps, modality, target, data.rows("train"), data.rows("validation"))
    grouped = Observations.of(data)
    first = table.drop_duplicates("observation").set_index("observation").loc[list(grouped.observations)]
    part = first["split"].to_numpy()
    rows = {name: torch.from_numpy(np.flatnonzero(part == name)) for name in ("train", "validation")}
    subject = torch.from_numpy(first["subject"].factorize()[0].astype(np.int64))
    labels = torch.tensor([classes.index(name) for name in first["label"]], dtype=torch.int64)
    sets = Sets(grouped.groups, labels, rows["train"], rows["validation"], subject)
    return scans, sets, grouped.observations
