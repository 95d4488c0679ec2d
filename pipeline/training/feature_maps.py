"""Feature maps of a patient's members: of images as the stage features keeps them, of tables from their values.

What a table is coded with is learnt from the training subjects of a repeat, so it cannot be kept once for all of them;
the code is computed here, in no time, and a table is a member of the set like any image.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cohort.table_encoding import TableEncoder, TooWideError
from cohort.table_members import Values, values_of
from console.errors import InputError
from pipeline.store.feature_buffer import FeatureBuffer
from pipeline.store.features import FeatureStore
from pipeline.training.repeat_data import RepeatData

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class FeatureMaps:
    """Feature maps of scans, read by name.

    Attributes:
        store: those of images.
        codes: scan that is a table → its channels, (C,) float32, the same at all positions.
        shape: (C, H, W); None without tables.
    """

    store: FeatureStore
    codes: Mapping[str, Tensor]
    shape: Shape | None = None

    def load(self, scans: Sequence[str]) -> Tensor:
        """Load the feature maps of scans, (N, C, H, W) float32, in the requested order.

        Raises:
            DamagedError: as `FeatureStore.load`.
        """
        images = [scan for scan in scans if scan not in self.codes]
        if len(images) == len(scans):
            return self.store.load(images)
        out = torch.empty(len(scans), *self._shape())
        is_table = torch.tensor([scan in self.codes for scan in scans])
        if images:
            out[~is_table] = self.store.load(images)
        out[is_table] = torch.stack([self.codes[scan] for scan in scans if scan in self.codes])[:, :, None, None]
        return out

    def of(self, buffer: FeatureBuffer, scans: Iterable[str]) -> "FeatureMapView":
        """Return a view of some scans, numbered from 0 in the given order.

        Args:
            buffer: feature maps of all images.
            scans: names, images and tables.
        """
        names = list(scans)
        rows = torch.tensor([-1 if scan in self.codes else buffer.index_of[scan] for scan in names], dtype=torch.int64)
        coded = [self.codes[scan] for scan in names if scan in self.codes]
        if not coded:
            return FeatureMapView(buffer, rows, None, buffer.shape)
        place = torch.full((len(names),), -1)
        place[[i for i, scan in enumerate(names) if scan in self.codes]] = torch.arange(len(coded))
        return FeatureMapView(buffer, rows, (place, torch.stack(coded).to(buffer.device)), self._shape())

    def _shape(self) -> Shape:
        if self.shape is None:
            raise ValueError("there are tables, and no shape for their feature maps")
        return self.shape


@dataclass(frozen=True)
class FeatureMapView:
    """View of some scans' feature maps, in its own order.

    Attributes:
        buffer: of images.
        rows: of each scan in it, (N,) int64; -1 for a table.
        tables: for each scan its row in the codes, (N,) int64, and the codes, (T, C), on the device; None without any.
        shape: of a feature map.
    """

    buffer: FeatureBuffer
    rows: Tensor
    tables: tuple[Tensor, Tensor] | None
    shape: tuple[int, ...]

    def __getitem__(self, items: Tensor) -> Tensor:
        """Return feature maps, (n, C, H, W), on the device; items (n,) int64."""
        items = items.cpu()
        if self.tables is None:
            return self.buffer[self.rows[items]]
        place, codes = self.tables
        out = codes.new_empty(len(items), *self.shape)
        image = self.rows[items] >= 0
        if image.any():
            out[image.to(out.device)] = self.buffer[self.rows[items[image]]]
        coded = codes[place[items[~image]].to(codes.device)]
        out[(~image).to(out.device)] = coded[:, :, None, None].expand(-1, *self.shape)
        return out


def table_encoders(data: RepeatData) -> dict[str, TableEncoder]:
    """Return the code of each table, learnt from the training members in `data`: modality → encoder.

    A table without a training member has none: no model can read it.
    """
    return {modality: TableEncoder.fit(list(values.values())) for modality, values in _members(data, "train").items()}


def feature_maps_of(data: RepeatData, store: FeatureStore) -> FeatureMaps:
    """Return the feature maps of a repeat's scans, with tables coded as its training members say.

    Raises:
        InputError: a table has more numbers than a feature map has channels.
    """
    members = _members(data)
    return coded(store, members, table_encoders(data), store.feature_map_shape()) if members else FeatureMaps(store, {})


def coded(
    store: FeatureStore,
    members: Mapping[str, Mapping[str, Values]],
    encoders: Mapping[str, TableEncoder],
    shape: Shape,
) -> FeatureMaps:
    """Return feature maps of images and of tables.

    Args:
        store: those of images.
        members: modality → scan → values, of tables.
        encoders: modality → code; a table without one becomes 0, and no model reads it.
        shape: (C, H, W).

    Raises:
        InputError: a table has more numbers than a feature map has channels.
    """
    codes: dict[str, Tensor] = {}
    for modality, values in members.items():
        vectors = np.zeros((len(values), shape[0]), dtype=np.float32)
        if modality in encoders:
            try:
                vectors = encoders[modality].encode(list(values.values()), shape[0])
            except TooWideError as error:
                raise InputError(f"the table {modality}: {error}") from error
        codes |= dict(zip(values, torch.from_numpy(vectors), strict=True))
    return FeatureMaps(store, codes, shape)


def encoding_notes(data: RepeatData) -> list[str]:
    """Describe columns that say nothing in this repeat's training, and categories that it does not have."""
    notes, members = [], _members(data)
    for modality, encoder in table_encoders(data).items():
        notes += [
            f"{modality}: column {name!r} has one value or none in training, and counts for nothing"
            for name in encoder.silent()
        ]
        unseen = Counter(pair for values in members[modality].values() for pair in encoder.unseen(values).items())
        notes += [
            f"{modality}: {name} {value!r} is not in training, and counts as missing (times: {count})"
            for (name, value), count in sorted(unseen.items())
        ]
    return notes


def _members(data: RepeatData, split: str | None = None) -> dict[str, dict[str, Values]]:
    """Return the tables of a split, or of all: modality → scan → values."""
    scans = data.scans if split is None else data.scans[data.scans["split"] == split]
    values = values_of(scans)
    return {
        str(modality): {scan: values[scan] for scan in names}
        for modality, names in scans.loc[scans["scan"].isin(values), ["scan", "modality"]].groupby("modality")["scan"]
    }
