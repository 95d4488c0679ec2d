"""Step 2: train ρ on frozen φ, then test it on all scans of every subject and on every subset of modalities."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from cohort.splits import leaked
from console.errors import InputError
from files.writing import replacing
from models import hypermm
from models.hypermm import extract, load_extractor, new_classifier
from models.set_classifier import SetClassifier
from models.settings import CHUNK
from pipeline.core.runtime import Runtime
from pipeline.specs.classify import ClassifyConfig
from pipeline.store.base import write_json
from pipeline.store.feature_buffer import FeatureBuffer
from pipeline.store.features import FeatureStore
from pipeline.store.fitted import ClassifierSet, ExtractorSet
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.repeat_data import RepeatData, Sets, data_of_repeat, repeats_of
from pipeline.training.scores import metrics_of, probabilities_of, readable, subset_table, subsets_of
from reporting.figures import learning_curves, penalty_curves


def classify(
    cohort: CohortTables,
    split: SplitTables,
    features: FeatureStore,
    pretrain: ExtractorSet,
    out: ClassifierSet,
    config: ClassifyConfig,
    runtime: Runtime,
) -> None:
    """Fit and test one ρ per repeat. Source: HyperMM, section 2.3, equations 1 and 2.

    Raises:
        InputError: an extractor was fitted on a test subject.
    """
    repeats, tested = repeats_of(split), []
    out.keep_only(repeats)
    steps = config.epochs if config.fit == "epochs" else 1
    with runtime.progress(len(repeats) * steps, "epoch" if config.fit == "epochs" else "repeat") as progress:

        def on_epoch(row: object) -> None:
            progress.advance()

        for done, repeat in enumerate(repeats, 1):
            with _model_of_repeat(cohort, split, features, pretrain, out, config, runtime, repeat, on_epoch) as model:
                tested.append(_test(model, repeat))
            progress.advance(done * steps - progress.done)
    draw = learning_curves if config.fit == "epochs" else penalty_curves
    with replacing(out.folder / "curves.svg") as partial:
        partial.write_bytes(draw(out.histories()))
    frames = {
        name: pd.concat([t[name] for t in tested], ignore_index=True) for name in ("validation", "test", "subsets")
    }
    classes = cohort.classes()
    out.save_table("predictions.csv", readable(frames["test"], classes))
    out.save_table("validation_predictions.csv", readable(frames["validation"], classes))
    metrics = metrics_of(frames["validation"], frames["test"], classes, repeats, note=runtime.note)
    write_json(out.folder / "metrics.json", metrics)
    out.save_table("subset_predictions.csv", readable(frames["subsets"], classes))
    out.save_table("subsets.csv", subset_table(frames["subsets"], metrics.get("thresholds")))
    for record in (out.record(r) or {} for r in repeats):
        runtime.notes += record["notes"]
    left_out = [failure for t in tested for failure in t["left_out"]]
    failures = {(f["scan"], f["reason"]): {**f, "retryable": False} for f in left_out}
    runtime.results |= {
        "counts": {"repeats": len(repeats), "test predictions": len(frames["test"])},
        "failures": list(failures.values()),
    }


@dataclass
class _Model:
    """The fitted classifier of one repeat and φ of all its scans, on the device of the run."""

    classifier: SetClassifier
    phi: FeatureBuffer
    data: RepeatData
    left_out: list[dict[str, str]]


@contextmanager
def _model_of_repeat(
    cohort: CohortTables,
    split: SplitTables,
    features: FeatureStore,
    pretrain: ExtractorSet,
    out: ClassifierSet,
    config: ClassifyConfig,
    runtime: Runtime,
    repeat: int,
    on_epoch: Callable[[object], None],
) -> Iterator[_Model]:
    """Load φ, compute it once for every scan, and load or fit ρ."""
    record = pretrain.record(repeat) or {}
    data = data_of_repeat(cohort, split, features, repeat)
    refuse_leak(record, split, repeat)
    data, left_out = _only_trained(data, record["modalities_trained"], repeat)
    device, feature_map_shape = runtime.device, tuple(record["feature_map_shape"])
    extractor = load_extractor(
        pretrain.state(repeat), modalities=len(record["modalities"]), feature_map_shape=feature_map_shape
    )
    modality = torch.tensor([record["modalities"].index(m) for m in data.scans["modality"]], dtype=torch.int64)
    names, maps = data.scans["scan"].to_list(), feature_maps_of(data, features)
    batches = (
        (maps.load([names[i] for i in rows.tolist()]), modality[rows]) for rows in torch.arange(len(names)).split(CHUNK)
    )
    most_bytes = 1_000_000 * config.memory_mb
    phi_of_all = extract(extractor.to(device), batches, device)
    with FeatureBuffer(names, phi_of_all, device=device, most_bytes=most_bytes, folder=out.folder) as phi:
        classifier = new_classifier(
            config.step,
            feature_map_shape=feature_map_shape,
            classes=len(data.classes),
            seed=config.training(repeat).seed,
        ).to(device)
        if out.has(repeat, runtime.key):
            classifier.load_state_dict(out.state(repeat))
            classifier.eval()
        else:
            _fit(classifier, phi, data, out, config, runtime, repeat, on_epoch)
        yield _Model(classifier, phi, data, left_out)


def refuse_leak(record: dict[str, Any], split: SplitTables, repeat: int) -> None:
    """Raise an error if the extractor was fitted on a test subject.

    Raises:
        InputError: it was; the message names the subjects.
    """
    seen = leaked([*record.get("train_subjects", ()), *record.get("validation_subjects", ())], split.splits(), repeat)
    if seen:
        raise InputError(
            f"repeat {repeat}: the extractor was fitted on {len(seen)} subject(s) of the test split "
            f"({', '.join(seen[:10])}); its test would mean nothing. Type --force pretrain"
        )


def _only_trained(data: RepeatData, trained: list[str], repeat: int) -> tuple[RepeatData, list[dict[str, str]]]:
    """Return the data without scans of modalities that φ was not trained on, and the reason for each."""
    unknown = data.scans[~data.scans["modality"].isin(trained)]
    left_out = [
        {
            "scan": row.scan,
            "reason": f"no training scan of repeat {repeat} is a {row.modality}, so the model cannot read it; trained "
            f"on {', '.join(trained)}",
        }
        for row in unknown.itertuples()
    ]
    trained_scans = data.scans.drop(unknown.index).reset_index(drop=True)
    return dataclasses.replace(data, scans=trained_scans), left_out


def _fit(
    classifier: SetClassifier,
    phi: FeatureBuffer,
    data: RepeatData,
    out: ClassifierSet,
    config: ClassifyConfig,
    runtime: Runtime,
    repeat: int,
    on_epoch: Callable[[object], None],
) -> None:
    sets = Sets.of(data).to(phi.device)
    first = data.scans.drop_duplicates("observation").set_index("observation")
    split_of, subject = first["split"], first["subject"].loc[list(sets.observations)].factorize()[0]
    train, validation = (
        torch.tensor(
            [i for i, name in enumerate(sets.observations) if split_of[name] == split],
            dtype=torch.int64,
            device=phi.device,
        )
        for split in ("train", "validation")
    )
    try:
        history = hypermm.fit_classifier(
            classifier,
            phi,
            hypermm.Sets(sets.groups, sets.target, train, validation, torch.from_numpy(subject).to(phi.device)),
            config.step,
            config.training(repeat),
            balance_classes=config.balance_classes,
            on_epoch=on_epoch,
        )
    except FloatingPointError as error:
        raise InputError(f"repeat {repeat}: {error}") from error
    notes = history.notes
    if config.fit == "epochs" and not len(validation):
        notes = ["no validation subject; training loss decided"]
    out.save(
        repeat,
        runtime.key,
        classifier.state_dict(),
        pd.DataFrame(history.rows),
        {
            "train_subjects": data.subjects("train"),
            "validation_subjects": data.subjects("validation"),
            **history.facts(),
            "notes": [f"repeat {repeat}: {note}" for note in notes],
        },
    )


def _test(model: _Model, repeat: int) -> dict[str, Any]:
    """Predict validation, test, and test with every subset of modalities, in one repeat."""
    frames = []
    present = model.data.modalities
    has = model.data.scans.groupby("observation")["modality"].agg(frozenset)
    for subset in subsets_of(present):
        frame = _predict(model, "test", repeat, frozenset(subset))
        complete = [has[observation] >= set(present) for observation in frame["observation"]]
        frames.append(frame.assign(modalities="+".join(subset), complete=np.array(complete, dtype=bool)))
    return {
        "validation": _predict(model, "validation", repeat),
        "test": _predict(model, "test", repeat),
        "subsets": pd.concat(frames, ignore_index=True),
        "left_out": model.left_out,
    }


def _predict(model: _Model, split: str, repeat: int, modalities: frozenset[str] | None = None) -> pd.DataFrame:
    """Return one row per observation of the split that has a scan of these modalities."""
    sets = Sets.of(model.data, split, modalities)
    probabilities = probabilities_of(model.classifier, model.phi, sets)
    table = model.data.scans
    items, starts = sets.groups.items, sets.groups.starts.tolist()
    used = [table["scan"].iloc[items[a:b].numpy()].to_list() for a, b in itertools.pairwise(starts)]
    subject = table.drop_duplicates("observation").set_index("observation")["subject"]
    frame = pd.DataFrame(
        {
            "repeat": np.full(len(sets.observations), repeat, dtype=np.int64),
            "subject": [subject[o] for o in sets.observations],
            "observation": list(sets.observations),
            "scans_used": [";".join(names) for names in used],
            "truth": sets.target.numpy(),
        }
    )
    for k in range(len(model.data.classes)):
        frame[f"p_{k}"] = probabilities[:, k].numpy()
    return frame
