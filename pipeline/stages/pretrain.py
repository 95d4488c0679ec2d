"""Step 1: train the universal extractor φ on single scans, one model per repeat."""

from collections.abc import Callable

import pandas as pd

from console.errors import InputError
from files.writing import replacing
from models.hypermm import Scans, fit_extractor, new_extractor
from pipeline.core.runtime import Runtime
from pipeline.specs.pretrain import PretrainConfig
from pipeline.store.features import FeatureStore
from pipeline.store.fitted import ExtractorSet
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.feature_maps import FeatureMapView, encoding_notes, feature_maps_of
from pipeline.training.repeat_data import RepeatData, data_of_repeat, repeats_of
from reporting.figures import learning_curves


def pretrain(
    cohort: CohortTables,
    split: SplitTables,
    features: FeatureStore,
    out: ExtractorSet,
    config: PretrainConfig,
    runtime: Runtime,
) -> None:
    """Fit one φ per repeat on training scans, keep the best validation epoch. Source: HyperMM, section 2.2."""
    repeats = repeats_of(split)
    out.keep_only(repeats)
    data = {repeat: data_of_repeat(cohort, split, features, repeat) for repeat in repeats}
    maps = {repeat: feature_maps_of(each, features) for repeat, each in data.items()}
    with (
        runtime.progress(len(repeats) * config.epochs, "epoch") as progress,
        features.rows(device=runtime.device, memory_mb=config.memory_mb, folder=out.folder) as of_images,
    ):
        for done, repeat in enumerate(repeats, 1):
            if not out.has(repeat, runtime.key):
                view = maps[repeat].of(of_images, data[repeat].scans["scan"])
                _fit_repeat(data[repeat], view, out, config, runtime, repeat, lambda row: progress.advance())
            progress.advance(done * config.epochs - progress.done)
    with replacing(out.folder / "curves.svg") as partial:
        partial.write_bytes(learning_curves(out.histories()))
    records = {r: out.record(r) or {} for r in repeats}
    runtime.notes += [f"repeat {r}: {n}" for r, record in records.items() for n in record.get("notes", ())]
    runtime.results |= {
        "counts": {"repeats": len(repeats)},
        "best_epochs": {r: record["best_epoch"] for r, record in records.items()},
    }


def _fit_repeat(
    data: RepeatData,
    feature_maps: FeatureMapView,
    out: ExtractorSet,
    config: PretrainConfig,
    runtime: Runtime,
    repeat: int,
    on_epoch: Callable[[object], None],
) -> None:
    if not len(data.rows("train")):
        raise InputError(f"repeat {repeat} has no training scan left; see failures.csv and split/splits.csv")
    device, training = runtime.device, config.training(repeat)
    channels, height, width = feature_maps.shape
    network = new_extractor(
        config.step,
        modalities=len(data.modalities),
        feature_map_shape=(channels, height, width),
        classes=len(data.classes),
        seed=training.seed,
    ).to(device)
    modality, target, train, validation = (
        tensor.to(device) for tensor in (data.modality(), data.target(), data.rows("train"), data.rows("validation"))
    )
    scans = Scans(feature_maps, modality, target, train, validation)
    try:
        history = fit_extractor(
            network, scans, config.step, training, balance_classes=config.balance_classes, on_epoch=on_epoch
        )
    except FloatingPointError as error:
        raise InputError(f"repeat {repeat}: {error}") from error
    validation = scans.stopping()
    notes = encoding_notes(data)
    if len(validation) == 0:
        notes.append("no validation scan; the training loss chose the epoch")
    elif len(target[validation].unique()) < 2:
        notes.append("the validation split has one class only; its loss still chose the epoch")
    out.save(
        repeat,
        runtime.key,
        network.extractor.state_dict(),
        pd.DataFrame(history.rows),
        {
            "train_subjects": data.subjects("train"),
            "validation_subjects": data.subjects("validation"),
            "modalities": data.modalities,
            "modalities_trained": sorted(data.scans.loc[train.cpu().numpy(), "modality"].unique()),
            "classes": data.classes,
            "feature_map_shape": list(feature_maps.shape),
            "best_epoch": history.best_epoch,
            "stopped": history.stopped,
            "notes": notes,
        },
    )
