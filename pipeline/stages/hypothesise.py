"""Ask hypotheses of held-out patients: paired differences with intervals, controls that have to be silent, images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort.covariates import covariates_of
from cohort.origin import real_only
from console.errors import InputError, PreconditionError
from evaluation.comparison import holm
from evaluation.paired import MeanDifference, mean_difference
from models.joint.blocks import FloatArray
from models.joint.decoder import Decoder
from models.joint.gaussian import JointGaussian, TooFewPatientsError
from models.joint.model import COVARIATE, CannotJoinError, JointModel, fit_model
from models.joint.model import JointConfig as ModelConfig
from models.settings import seed_of_repeat
from pipeline.core.runtime import Runtime
from pipeline.specs.hypothesise import Hypothesis, HypothesiseConfig
from pipeline.specs.joint import JointConfig
from pipeline.stages.joint import decoders_of, features_shape
from pipeline.store.features import FeatureStore
from pipeline.store.hypotheses import HypothesisTables
from pipeline.store.marking import Marker
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.grid_images import GridImages
from pipeline.training.hypothesis_images import write_images
from pipeline.training.joint_patients import (
    CovariateBlocks,
    learnt_from,
    notes_on_sessions,
    observation_table,
    part_of,
    part_of_repeat,
)
from pipeline.training.repeat_data import data_of_repeat, repeats_of, without_synthetic
from synthesis.hypotheses import (
    FEWEST,
    INSIDE,
    Shift,
    class_difference,
    displacement,
    distance,
    of_subjects,
    outcomes,
    permuted,
    random_moves,
    shift,
)
from synthesis.hypothesis_images import ImageChange, image_change, over_repeats
from synthesis.questions import CLASS, Question, parse_along

ASSOCIATION = "association, not intervention"
HELD = "an effect only if all that both depend on is held: "
NO_IMAGES = (
    "no images of hypotheses: nothing was moved and decoded (joint.decoder is none, all others are tables, or too "
    "few patients have them)"
)


def hypothesise(
    cohort: CohortTables,
    split: SplitTables,
    preprocess: VolumeSet,
    features: FeatureStore,
    joint: JointConfig,
    out: HypothesisTables,
    config: HypothesiseConfig,
    runtime: Runtime,
) -> None:
    """Write effects, controls and images, by the model of the stage joint; no class of a test patient is used.

    Raises:
        InputError: a hypothesis names what the joint model does not have, or nothing can be learnt.
    """
    if joint.engine == "diffusion":
        raise InputError(
            "joint.engine is diffusion, and effects are reckoned from regressions of the linear engine; type "
            "--joint.engine linear with --stages hypothesise"
        )
    if joint.federated:
        raise InputError(
            "joint.federated names a model of several sites, and hypotheses are asked of a model of the patients here "
            "alone; type --joint.federated [] with --stages hypothesise"
        )
    out.begin()
    marker = Marker.ready(
        config.mark_key, config.mark_batch, setting="hypothesise.mark_key", workspace=runtime.workspace
    )
    kinds = real_only(cohort.scans()).drop_duplicates("modality").set_index("modality")["kind"].to_dict()
    grid = GridImages(preprocess, kinds, joint.spacing_mm, joint.pixels)
    repeats = repeats_of(split)
    asked: dict[str, Asked] = {}
    shape: tuple[int, int, int] = (0, 0, 0)
    shrinkage: list[float] = []
    with runtime.progress(len(repeats), "repeat") as progress:
        for repeat in repeats:
            world = _world(cohort, split, features, grid, joint, repeat)
            shape = world.shape
            shrinkage.append(world.model.gaussian.shrinkage)
            for hypothesis in config.hypotheses or _usual(world.model):
                name = str(hypothesis)
                asked.setdefault(name, Asked(hypothesis)).ask(world, seed_of_repeat(config.seed, repeat), repeat)
            for note in (*world.model.notes, *world.notes):
                runtime.notes.append(f"repeat {repeat}: {note}")
            progress.advance()
    effects = pd.DataFrame(
        [row for each in asked.values() for row in each.effects()], columns=list(HypothesisTables.EFFECTS)
    )
    effects["p_holm"] = holm(effects["p"].to_numpy(dtype=float))
    patients = [row for each in asked.values() for row in each.patients]
    maps = [row for each in asked.values() for row in each.map_rows()]
    images = [
        write_images(str(each.hypothesis), target, over_repeats(parts), each.says, grid=grid, out=out, marker=marker)
        for each in asked.values()
        for target, parts in each.images.items()
    ]
    out.save(
        effects,
        pd.DataFrame(patients, columns=list(HypothesisTables.PATIENTS)),
        pd.DataFrame(maps, columns=list(HypothesisTables.MAPS)),
        pd.DataFrame(images, columns=list(HypothesisTables.IMAGES)),
        {
            "repeats": len(repeats),
            "positive": cohort.classes()[-1],
            "inside": INSIDE,
            "shape": list(shape),
            "shrinkage": shrinkage,
        },
    )
    for row in effects[effects["note"] != ""].drop_duplicates(["hypothesis", "note"]).to_dict("records"):
        runtime.note(f"{row['hypothesis']}: {row['note']}")
    for note in marker.notes() if images else [NO_IMAGES]:
        runtime.note(note)


@dataclass(frozen=True)
class World:
    """The joint model of a repeat, its training scores, and its test patients.

    Attributes:
        model: fitted to training patients.
        rows: scores that it was learnt from, (n, d).
        labels: classes of these, (n,).
        trained: subjects of these, (n,).
        tested: scores of test patients, (m, d).
        observations: of test patients.
        subjects: of these.
        shape: (C, H, W) of a feature map.
        config: of the model.
        decoders: modality → decoder, of those that have images.
        notes: on the sessions that it was learnt from, and on what cannot be decoded.
        silent: source → model of permuted pairings, made once for all hypotheses of that source.
    """

    model: JointModel
    rows: FloatArray
    labels: NDArray[np.int64]
    trained: tuple[str, ...]
    tested: FloatArray
    observations: tuple[str, ...]
    subjects: tuple[str, ...]
    shape: tuple[int, int, int]
    config: ModelConfig
    decoders: Mapping[str, Decoder]
    notes: tuple[str, ...] = ()
    silent: dict[str, JointGaussian | None] = field(default_factory=dict)


def _world(
    cohort: CohortTables,
    split: SplitTables,
    features: FeatureStore,
    grid: GridImages,
    joint: JointConfig,
    repeat: int,
) -> World:
    data = without_synthetic(data_of_repeat(cohort, split, features, repeat), cohort)
    maps = feature_maps_of(data, features)
    table = covariates_of(real_only(cohort.scans()))
    about, train = observation_table(data), learnt_from(data)
    blocks = None
    if joint.covariates and len(table.columns):
        blocks = CovariateBlocks.fit(table.reindex(train).fillna(""), table)
    learnt, tested = part_of(train, data, maps, blocks, table), part_of_repeat(data, maps, ["test"], blocks, table)
    settings = ModelConfig(
        joint.basis, joint.components, max(joint.draws, 2), joint.factors, seed_of_repeat(joint.seed, repeat)
    )
    shape = features_shape(maps)
    try:
        model, rows = fit_model(learnt.patients, learnt.labels, len(data.classes), settings, shape=shape)
    except (CannotJoinError, TooFewPatientsError) as error:
        raise PreconditionError(f"repeat {repeat}: {error}") from error
    notes = notes_on_sessions(data)
    decoders: dict[str, Decoder] = {}
    if joint.decoder == "pca":
        decoders, undecoded = decoders_of(data, model, rows, learnt.observations, learnt.labels, grid, settings)
        notes = [*notes, *undecoded]
    trained, asked = (tuple(about.loc[list(part.observations), "subject"]) for part in (learnt, tested))
    return World(
        model, rows, learnt.labels, trained, model.scores(tested.patients), tested.observations, asked, shape, settings,
        decoders, tuple(notes),
    )  # fmt: skip


def _usual(model: JointModel) -> tuple[Hypothesis, ...]:
    """Return what is asked where nothing is named: each modality along its class difference."""
    return tuple(Hypothesis(clamp=name) for name in model.bases)


@dataclass
class Asked:
    """A hypothesis, and what was found in each repeat.

    Attributes:
        hypothesis: as named.
        found: target → differences of each repeat, (S, n).
        controls: name of a control → the same.
        patients: rows of `patients.csv`.
        maps: target → maps (S, H, W) of each repeat.
        images: target → images of each repeat, if the source is moved.
        refused: moves that would leave the ellipsoid, over repeats.
        possible: patients asked, over repeats.
        notes: what stood in the way.
    """

    hypothesis: Hypothesis
    found: dict[str, list[FloatArray]] = field(default_factory=dict)
    controls: dict[str, dict[str, list[FloatArray]]] = field(default_factory=dict)
    patients: list[dict[str, Any]] = field(default_factory=list)
    maps: dict[str, list[FloatArray]] = field(default_factory=dict)
    images: dict[str, list[ImageChange]] = field(default_factory=dict)
    refused: int = 0
    possible: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def says(self) -> str:
        """What an answer is: an association, or what it takes for an effect."""
        return HELD + ", ".join(self.hypothesis.held) if self.hypothesis.held else ASSOCIATION

    def ask(self, world: World, seed: int, repeat: int) -> None:
        """Ask the test patients of a repeat.

        Raises:
            InputError: the model has no such modality or covariate, component or region.
        """
        model, gaussian = world.model, world.model.gaussian
        question = self._question(model)
        chosen = self._chosen(world, question)
        moves: FloatArray | None = None
        if question.along is not None:
            try:
                moved = displacement(gaussian, question, toward=_toward(world, question))
            except ValueError as error:
                raise InputError(f"hypothesise.hypotheses: {self.hypothesis}: {error}") from error
            chosen = self._inside(world, question, chosen, moved)
            moves = np.repeat(moved[None], len(chosen), axis=0)
        subjects = [world.subjects[i] for i in chosen]
        if len(set(subjects)) < FEWEST:
            self.notes.append(f"repeat {repeat}: {len(set(subjects))} test patients can be asked, {FEWEST} are needed")
            return
        rows = world.tested[chosen]
        changed = shift(gaussian, question, rows, moves)
        found = outcomes(gaussian, question, rows, changed)
        self._keep(self.found, found, subjects)
        self._remember(found, [(world.observations[i], world.subjects[i]) for i in chosen], repeat)
        self._map(world, changed)
        if moves is not None:
            self._decode(world, question, rows, changed, subjects)
        silent = self._permuted(world, question, seed)
        if silent is not None:
            controlled = outcomes(gaussian, question, rows, shift(silent, question, rows, moves))
            self._keep(self.controls.setdefault("permuted", {}), controlled, subjects)
        if moves is not None:
            aside = random_moves(gaussian, moves[0], question.source, len(chosen), seed)
            controlled = outcomes(gaussian, question, rows, shift(gaussian, question, rows, aside))
            self._keep(self.controls.setdefault("random", {}), controlled, subjects)

    def _question(self, model: JointModel) -> Question:
        """Return the hypothesis with the names of blocks.

        Raises:
            InputError: the model has no such block.
        """
        held = []
        for name in self.hypothesis.held:
            known = name if name == CLASS or name in model.bases else COVARIATE + name
            if known != CLASS and known not in model.blocks.names:
                raise InputError(f"hypothesise.hypotheses: {self.hypothesis}: {self._unknown(name, model)}")
            held.append(known)
        source = self.hypothesis.source
        if source not in model.bases:
            raise InputError(f"hypothesise.hypotheses: {self.hypothesis}: {self._unknown(source, model)}")
        along = None if self.hypothesis.ablate is not None else parse_along(self.hypothesis.along)
        return Question(source, along, float(self.hypothesis.by.removesuffix(" sd")), tuple(held))

    @staticmethod
    def _unknown(name: str, model: JointModel) -> str:
        known = ", ".join(each.removeprefix(COVARIATE) for each in model.blocks.names)
        return f"the joint model has no {name!r}; it has {known}"

    @staticmethod
    def _chosen(world: World, question: Question) -> NDArray[np.int64]:
        """Return test patients with the source and all that is held, and with another scan if it is taken away."""
        blocks = world.model.blocks
        needed = [question.source, *(name for name in question.held if name != CLASS)]
        there = np.all([~np.isnan(world.tested[:, blocks.slice_of(name).start]) for name in needed], axis=0)
        if question.along is None:
            others = [name for name in world.model.bases if name != question.source]
            there &= np.any([~np.isnan(world.tested[:, blocks.slice_of(name).start]) for name in others], axis=0)
        return np.flatnonzero(there)

    def _inside(
        self, world: World, question: Question, chosen: NDArray[np.int64], moved: FloatArray
    ) -> NDArray[np.int64]:
        """Leave out patients who would leave the ellipsoid that holds most training patients."""
        gaussian, part = world.model.gaussian, world.model.blocks.slice_of(question.source)
        known = world.rows[~np.isnan(world.rows[:, part.start])][:, part]
        limit = float(np.quantile(distance(gaussian, known, question.source), INSIDE))
        inside = distance(gaussian, world.tested[chosen][:, part] + moved, question.source) <= limit
        self.possible += len(chosen)
        self.refused += int((~inside).sum())
        return chosen[inside]

    def _permuted(self, world: World, question: Question, seed: int) -> JointGaussian | None:
        """Return the model of permuted pairings; None if what is asked is too little for it."""
        model, source = world.model, question.source
        if source in world.silent:
            return world.silent[source]
        world.silent[source] = None
        try:
            world.silent[source] = permuted(
                world.rows, world.labels, model.blocks, model.gaussian.classes, source,
                subjects=world.trained, draws=world.config.draws, seed=seed,
            )  # fmt: skip
        except TooFewPatientsError:
            pass  # without this control; the columns stay empty
        return world.silent[source]

    @staticmethod
    def _keep(where: dict[str, list[FloatArray]], found: Mapping[str, FloatArray], subjects: list[str]) -> None:
        """Keep the differences of patients; sessions of one are averaged, since they are no two patients."""
        for target, values in found.items():
            there = ~np.isnan(values[0])
            owners = np.array(subjects)[there]
            if len(set(owners)) >= FEWEST:
                where.setdefault(target, []).append(of_subjects(values[:, there], owners))

    def _remember(self, found: Mapping[str, FloatArray], names: list[tuple[str, str]], repeat: int) -> None:
        for target, values in found.items():
            for (observation, subject), column in zip(names, values.T, strict=True):
                if not np.isnan(column[0]):
                    self.patients.append(
                        {"repeat": repeat, "hypothesis": str(self.hypothesis), "target": target,
                         "observation": observation, "subject": subject, "difference": float(column.mean()),
                         "sd": float(column.std(ddof=1))}
                    )  # fmt: skip

    def _map(self, world: World, changed: Shift) -> None:
        """Keep where on the target's feature map the change along its class axis is, for each draw: (S, H, W)."""
        for name, basis in world.model.bases.items():
            part = world.model.blocks.slice_of(name)
            mean = changed.scores[:, :, part].mean(axis=1)  # over patients
            if name == self.hypothesis.source or name in self.hypothesis.held or not mean.any():
                continue
            axis = (class_difference(world.model.gaussian.estimate)[part] * basis.scale) @ basis.components
            total = world.model.gaussian.estimate.total()[1][part, part]
            projected = basis.scale * basis.components @ axis
            norm = np.sqrt(max(float(projected @ total @ projected), np.finfo(float).tiny))
            change = (basis.scale * mean) @ basis.components  # (S, D)
            where = (change * axis / norm).reshape(len(mean), *world.shape).sum(axis=1)
            self.maps.setdefault(name, []).append(where)

    def _decode(self, world: World, question: Question, rows: FloatArray, changed: Shift, subjects: list[str]) -> None:
        """Keep the images of each target, before and after, of the patients who have it."""
        for target, decoder in world.decoders.items():
            part = world.model.blocks.slice_of(target)
            there = np.flatnonzero(~np.isnan(rows[:, part.start]))
            owners = [subjects[i] for i in there]
            if target == question.source or target in question.held or len(set(owners)) < FEWEST:
                continue
            found = image_change(decoder, question, rows[there, part], changed.scores[:, there, part], owners)
            self.images.setdefault(target, []).append(found)

    def map_rows(self) -> list[dict[str, Any]]:
        """Return rows of `maps.csv`; draws of all repeats together."""
        rows = []
        for target, parts in self.maps.items():
            every = np.concatenate(parts)
            mean, sd = every.mean(axis=0), every.std(axis=0, ddof=1)
            rows += [
                {"hypothesis": str(self.hypothesis), "target": target, "row": i + 1, "column": j + 1,
                 "change": float(mean[i, j]), "sd": float(sd[i, j])}
                for i, j in np.ndindex(mean.shape)
            ]  # fmt: skip
        return rows

    def effects(self) -> list[dict[str, Any]]:
        """Return rows of `effects.csv`, without Holm's correction; one row that says why, if nothing could be asked."""
        usual: dict[str, Any] = {
            "hypothesis": str(self.hypothesis), "source": self.hypothesis.source,
            "held": ", ".join(self.hypothesis.held), "refused": self.refused,
            "says": self.says, "note": self._note(),
        }  # fmt: skip
        if not self.found:
            return [usual | {"target": "", "patients": 0, "p": np.nan}]
        rows = []
        for target, parts in self.found.items():
            row = usual | {"target": target} | _columns("effect", mean_difference(parts))
            for control, found in self.controls.items():
                if target in found:
                    row |= {
                        key: value
                        for key, value in _columns(control, mean_difference(found[target])).items()
                        if key.startswith(control)
                    }
            rows.append(row)
        return rows

    def _note(self) -> str:
        notes = list(dict.fromkeys(self.notes))
        if self.refused:
            notes.insert(
                0,
                f"{self.refused} of {self.possible} moves are refused: they end outside of the ellipsoid that holds "
                f"{INSIDE:.0%} of the training patients",
            )
        return "; ".join(notes)


def _columns(name: str, found: MeanDifference) -> dict[str, Any]:
    low, high = ("low", "high") if name == "effect" else (f"{name}_low", f"{name}_high")
    return {
        name: found.mean, low: found.low, high: found.high, "p": found.p, "patients": found.patients,
        "of_parameters": found.of_parameters,
    }  # fmt: skip


def _toward(world: World, question: Question) -> FloatArray | None:
    """Return the direction in scores that changes the class difference within a region alone, (k,)."""
    assert question.along is not None
    if question.along.kind != "region":
        return None
    model, (_, height, width) = world.model, world.shape
    first, last, left, right = question.along.region
    if last >= height or right >= width:
        raise ValueError(f"a feature map has {height} rows and {width} columns")
    basis, part = model.bases[question.source], model.blocks.slice_of(question.source)
    whole = (class_difference(model.gaussian.estimate)[part] * basis.scale) @ basis.components
    mask = np.zeros((height, width))
    mask[first : last + 1, left : right + 1] = 1
    return np.asarray(basis.components @ (whole.reshape(world.shape) * mask).ravel())
