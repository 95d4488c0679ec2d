"""The one fit loop: every network trained on cached feature maps uses it, with the same early stopping.

Source: HyperMM, section 3.1: Adam, at most 100 epochs, stop after 10 without a lower validation loss.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.settings import Training

Loss = Callable[[Tensor, bool], dict[str, Tensor]]
OnEpoch = Callable[[dict[str, float | int | bool]], None]


def ignore(row: dict[str, float | int | bool]) -> None:
    """Do nothing with a finished epoch."""


@dataclass
class History:
    """The losses of each epoch.

    Attributes:
        rows: one dict an epoch: epoch, train_loss, validation_loss, their terms, and best (bool).
        best_epoch: 1-based epoch whose weights were kept.
        stopped: why training ended.
        notes: to be shown to people.
    """

    rows: list[dict[str, float | int | bool]] = field(default_factory=list)
    best_epoch: int = 0
    stopped: str = ""
    notes: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, int | str]:
        """Return what a record keeps of it."""
        return {"best_epoch": self.best_epoch, "stopped": self.stopped}


def fit(
    network: nn.Module,
    loss: Loss,
    *,
    train: Tensor,
    validation: Tensor,
    training: Training,
    stop_on: str = "loss",
    on_epoch: OnEpoch = ignore,
) -> History:
    """Train `network` in place and leave it with the weights of its best validation epoch.

    Gradients are zeroed before every step (the published code does so once a patient), and the kept epoch is the best
    on validation (it keeps the last). Without validation items the training loss decides, and `stopped` says so.

    Args:
        network: what is trained.
        loss: from item indices (B,) and "is this training?" to named scalar terms, each a mean over the items;
            their sum is minimised.
        train: (N,) int64 item indices, N >= 1.
        validation: (V,) int64 item indices, V >= 0.
        training: epochs, batch size, rate and patience; its seed is that of the order of items.
        stop_on: the term of the loss whose validation value chooses the epoch; "loss" is their sum.
        on_epoch: called with each finished row of the history.

    Raises:
        ValueError: no training items.
        FloatingPointError: the loss is no longer a finite number.
    """
    if len(train) == 0:
        raise ValueError("nothing to train on: no training items")
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trainable, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)
    order = torch.Generator().manual_seed(training.seed)
    history, best, best_state = History(), float("inf"), copy.deepcopy(network.state_dict())
    for epoch in range(1, training.epochs + 1):
        network.train()
        sums: dict[str, float] = {}
        for batch in _batches(train[torch.randperm(len(train), generator=order)], training.batch_size):
            optimiser.zero_grad(set_to_none=True)
            losses = loss(batch, True)
            torch.stack(list(losses.values())).sum().backward()
            optimiser.step()
            _add(sums, losses, len(batch))
        row = _row(epoch, "train", sums, len(train))
        row |= evaluate(network, loss, validation, batch_size=training.batch_size)
        split = "validation" if len(validation) else "train"
        if not math.isfinite(whole := float(row[f"{split}_loss"])):
            rate = training.learning_rate
            raise FloatingPointError(f"the loss of epoch {epoch} is {whole}; lower learning_rate ({rate})")
        decisive = float(row[f"{split}_{stop_on}"])
        history.rows.append(row)
        if decisive < best:
            best, history.best_epoch = decisive, epoch
            best_state = {name: value.detach().clone() for name, value in network.state_dict().items()}
        on_epoch(row)
        if epoch - history.best_epoch >= training.patience:
            history.stopped = f"no lower loss for {training.patience} epochs"
            break
    else:
        history.stopped = f"all {training.epochs} epochs done"
    if len(validation) == 0:
        history.stopped += "; there was no validation item, so the training loss decided"
    for row in history.rows:
        row["best"] = row["epoch"] == history.best_epoch
    network.load_state_dict(best_state)
    network.eval()
    return history


@torch.inference_mode()
def evaluate(network: nn.Module, loss: Loss, items: Tensor, *, batch_size: int) -> dict[str, float | int | bool]:
    """Return the mean loss over `items` with the network in evaluation mode; NaN without items."""
    if len(items) == 0:
        return {"validation_loss": float("nan")}
    network.eval()
    sums: dict[str, float] = {}
    for batch in _batches(items, max(batch_size, 64)):
        _add(sums, loss(batch, False), len(batch))
    return _row(None, "validation", sums, len(items))


def _batches(items: Tensor, size: int) -> Iterator[Tensor]:
    yield from items.split(size)


def _add(sums: dict[str, float], losses: dict[str, Tensor], count: int) -> None:
    for name, value in losses.items():
        sums[name] = sums.get(name, 0.0) + float(value.detach()) * count


def _row(epoch: int | None, split: str, sums: dict[str, float], count: int) -> dict[str, float | int | bool]:
    row: dict[str, float | int | bool] = {} if epoch is None else {"epoch": epoch}
    row[f"{split}_loss"] = sum(sums.values()) / count
    return row | {f"{split}_{name}": value / count for name, value in sums.items()}
