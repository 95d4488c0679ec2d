"""Step 1: train the universal extractor φ on single scans, one model a repeat."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from files.writing import replacing
from pipeline.artifacts import BlockSet, CohortTables, ExtractorSet, SplitTables
from pipeline.repeats import Usable, class_weights, repeats_of, usable_scans
from pipeline.rows import CHUNK, Rows, View
from pipeline.runtime import InputError, Runtime
from pipeline.stage import Stage
from pipeline.stages.cohort import STAGE as COHORT
from pipeline.stages.features import STAGE as FEATURES
from pipeline.stages.split import STAGE as SPLIT
from pipeline.training import TrainingConfig, train_network

if TYPE_CHECKING:
    from torch import Tensor


class PretrainConfig(TrainingConfig):
    """How φ is trained. Values as published: batch_size 1, block_scale none, patience 10, epochs 100."""

    losses: Literal["both", "classification", "reconstruction"] = Field(
        default="both", description="both is MSE + cross-entropy, as published"
    )
    embedding: int = Field(default=5, ge=1, description="width of the modality embedding")
    hidden: int = Field(default=20, ge=1, description="width of the hypernetwork's hidden layer")
    initialisation: Literal["principled", "default"] = Field(default="principled", description="of the hypernetwork")
    block_scale: Literal["standardise", "scale", "none"] = Field(
        default="standardise", description="of blocks, learnt from training scans (docs/decisions/0004)"
    )


def pretrain(
    cohort: CohortTables,
    split: SplitTables,
    features: BlockSet,
    out: ExtractorSet,
    config: PretrainConfig,
    runtime: Runtime,
) -> None:
    """Fit one φ a repeat on training scans, keep the best validation epoch. Source: HyperMM, section 2.2."""
    from evaluation.figures import learning_curves

    repeats = repeats_of(split)
    out.keep_only(repeats)
    usable = {repeat: usable_scans(cohort, split, features, repeat) for repeat in repeats}
    with (
        runtime.progress(len(repeats) * config.epochs, "epoch") as progress,
        features.rows(device=runtime.device, memory_mb=config.memory_mb, folder=out.folder) as blocks,
    ):
        for done, repeat in enumerate(repeats, 1):
            if not out.has(repeat, runtime.key):
                _fit_repeat(usable[repeat], blocks, out, config, runtime, repeat, lambda row: progress.advance())
            progress.advance(done * config.epochs - progress.done)
    with replacing(out.folder / "curves.svg") as part:
        part.write_bytes(learning_curves(out.histories()))
    records = {r: out.record(r) or {} for r in repeats}
    runtime.notes += [f"repeat {r}: {n}" for r, record in records.items() for n in record.get("notes", ())]
    runtime.results |= {
        "counts": {"repeats": len(repeats)},
        "best_epochs": {r: record["best_epoch"] for r, record in records.items()},
    }


def _fit_repeat(
    usable: Usable,
    all_blocks: Rows,
    out: ExtractorSet,
    config: PretrainConfig,
    runtime: Runtime,
    repeat: int,
    on_epoch: Callable[[object], None],
) -> None:
    import pandas as pd
    import torch
    import torch.nn.functional as F

    from models.extractor import PretrainNetwork, UniversalExtractor

    train, validation = usable.rows("train"), usable.rows("validation")
    if len(train) == 0:
        raise InputError(f"repeat {repeat} has no training scan left; see failures.csv and split/splits.csv")
    seen = set(usable.scans.loc[train.numpy(), "modality"])
    known = torch.tensor(usable.scans["modality"].isin(seen).to_list())
    validation = validation[known[validation]]  # φ has no layer for a modality that it never saw
    device = runtime.device
    blocks = all_blocks.of(usable.scans["scan"])
    modality, target = usable.modality().to(device), usable.target().to(device)

    torch.manual_seed(1000 * config.seed + repeat)
    channels, height, width = blocks.shape
    extractor = UniversalExtractor(
        len(usable.modalities),
        (channels, height, width),
        embedding=config.embedding,
        hidden=config.hidden,
        initialisation=config.initialisation,
    )
    network = PretrainNetwork(extractor, len(usable.classes)).to(device)
    extractor.fit_scale(_Batches(blocks, modality, train), config.block_scale)
    train, validation = train.to(device), validation.to(device)
    weight = class_weights(target[train].cpu(), len(usable.classes)).to(device) if config.balance_classes else None

    def loss(items: torch.Tensor, training: bool) -> dict[str, torch.Tensor]:
        z, reconstruction, logits = network(blocks[items], modality[items])
        parts = {"mse": F.mse_loss(reconstruction, z), "ce": F.cross_entropy(logits, target[items], weight=weight)}
        dropped = {"both": "", "classification": "mse", "reconstruction": "ce"}[config.losses]
        return {name: value for name, value in parts.items() if name != dropped}

    history = train_network(network, loss, (train, validation), config=config, repeat=repeat, on_epoch=on_epoch)
    notes = []
    if len(validation) == 0:
        notes.append("no validation scan; the training loss chose the epoch")
    elif len(target[validation].unique()) < 2:
        notes.append("the validation part has one class only; its loss still chose the epoch")
    out.save(
        repeat,
        runtime.key,
        extractor.state_dict(),
        pd.DataFrame(history.rows),
        {
            "train_subjects": usable.subjects("train"),
            "validation_subjects": usable.subjects("validation"),
            "modalities": usable.modalities,
            "modalities_trained": sorted(seen),
            "classes": usable.classes,
            "block_shape": list(blocks.shape),
            "best_epoch": history.best_epoch,
            "stopped": history.stopped,
            "notes": notes,
        },
    )


@dataclass(frozen=True)
class _Batches:
    """Blocks and modalities of some scans, as often as they are asked for."""

    blocks: View
    modality: "Tensor"
    scans: "Tensor"

    def __iter__(self) -> "Iterator[tuple[Tensor, Tensor]]":
        for items in self.scans.split(CHUNK):
            yield self.blocks[items], self.modality[items]


STAGE = Stage(
    pretrain,
    config=PretrainConfig,
    writes=ExtractorSet,
    version=2,
    reads={"cohort": COHORT, "split": SPLIT, "features": FEATURES},
)
