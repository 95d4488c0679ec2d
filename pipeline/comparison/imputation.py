"""Impute whole scans with pix2pix or cycleGAN: train on training subjects, write volumes, compute their feature maps.

All files are in the folder of one baseline: `<source>-to-<target>/` with `checkpoint.safetensors`, `history.csv`
and `epoch-NNN.png`; `imputed/imputed_<observation>_<modality>.nii.gz`, and .json; `quality.csv`. An imputed scan says
what it is in its name, its header and the JSON beside it, carries a watermark if there is a key for it, and is never
read as a real one. Feature maps and quality are those of the volume before it is marked.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.sample import CannotFit
from baselines.translation.cyclegan import CycleGan, CycleGanSettings
from baselines.translation.frames import Frame, aligned, brain_frame, from_frame, paired_slices, to_frame
from baselines.translation.pix2pix import Pix2Pix, Pix2PixSettings
from baselines.translation.quality import ssim_psnr
from baselines.translation.training import Trainer, translate
from cohort.table_members import values_of
from devices.precision import half_precision
from files.writing import remove_folder, replacing
from pipeline.comparison.scenarios import ScenarioSample
from pipeline.core.progress import LINE_EVERY_S
from pipeline.specs.baselines import GanConfig
from pipeline.store.imputed import IMPUTED
from pipeline.store.made_images import volume_bytes, write_image
from pipeline.store.marking import Marker
from pipeline.store.volumes import VolumeSet
from preprocessing.encoding import png_bytes
from preprocessing.qc import axial_slices
from preprocessing.resample import resample
from preprocessing.volumes import read_volume

log = logging.getLogger("hypermm")
Kind = Literal["pix2pix", "cyclegan"]


class Scan(NamedTuple):
    """A preprocessed scan, its brain mask and its affine."""

    volume: Tensor
    mask: Tensor
    affine: NDArray[np.float64]


@dataclass
class Imputed:
    """The result of an imputation.

    Attributes:
        feature_maps: (observation, modality), both as numbers of the sample → feature map of the backbone
            (C, H, W).
        quality: rows of SSIM and PSNR, of imputed scans whose real one was hidden.
        seconds: training and translation.
        notes: warnings for the report.
        parameters: trained numbers of all networks.
    """

    feature_maps: dict[tuple[int, int], Tensor]
    quality: list[dict[str, Any]]
    seconds: float
    notes: list[str]
    parameters: int


def impute(
    kind: Kind,
    scenario_sample: ScenarioSample,
    modalities: tuple[str, ...],
    *,
    hidden: Mapping[tuple[str, str], str],
    volumes: VolumeSet,
    folder: Path,
    config: GanConfig,
    feature_map_of: Callable[[Tensor, Tensor, tuple[float, float, float]], Tensor],
    spacing_mm: float,
    device: torch.device,
    seed: int,
    marker: Marker,
) -> Imputed:
    """Impute every missing scan of every observation from an available one.

    Args:
        kind: which network.
        scenario_sample: the scans that the scenario leaves.
        modalities: names.
        hidden: (observation, modality) → scan that exists but was hidden; used only to measure the quality.
        volumes: preprocessed scans.
        folder: of this baseline; training resumes from a checkpoint in it.
        config: sizes.
        feature_map_of: from volume, mask and voxel size (mm) to the backbone's feature map.
        spacing_mm: voxel size of the imputed volumes, that of preprocessing.
        device: where networks are trained.
        seed: of weights and order.
        marker: of the imputed volumes.

    Raises:
        CannotFit: there are no training scans for a needed translation, or the sets have tables.
    """
    if tables := values_of(scenario_sample.scans):
        raise CannotFit(f"{next(iter(tables))} is a table; pix2pix and cycleGAN translate volumes")
    started = time.monotonic()
    present = scenario_sample.sample.modality_mask.cpu()
    needed: dict[tuple[int, int], list[int]] = {}  # (source, target) → observations
    for observation, target in (~present).nonzero().tolist():
        sources = present[observation].nonzero().squeeze(1).tolist()
        if sources:
            needed.setdefault((sources[0], target), []).append(observation)
    result = Imputed({}, [], 0.0, [], 0)
    remove_folder(folder / IMPUTED, below=folder)  # of other networks, another watermark or another version
    for (source, target), observations in needed.items():
        names = modalities[source], modalities[target]
        network, parameters = _train(
            kind, scenario_sample, (source, target), names, volumes, folder, config, device, seed, result.notes
        )
        result.parameters += parameters
        for observation in observations:
            given = _scan(volumes, _names_of(scenario_sample, observation, source)[0])
            made, frame = _translate(network, given, config, spacing_mm, device)
            feature_map = feature_map_of(made.volume, made.mask, (spacing_mm,) * 3)
            result.feature_maps[observation, target] = feature_map
            name = scenario_sample.observations[observation]
            _write(folder, name, names, kind, made, marker, seed)
            if (name, names[1]) in hidden:
                real = in_frame(_scan(volumes, hidden[name, names[1]]), given, frame)
                split = str(scenario_sample.scans.loc[scenario_sample.scans["observation"] == name, "split"].iloc[0])
                row = {"observation": name, "split": split, "from": names[0], "to": names[1]}
                row |= {"source": _names_of(scenario_sample, observation, source)[0], "real": hidden[name, names[1]]}
                result.quality.append(row | _quality(real, given, made, frame))
    result.seconds = time.monotonic() - started
    return result


def _train(
    kind: Kind,
    scenario_sample: ScenarioSample,
    pair: tuple[int, int],
    names: tuple[str, str],
    volumes: VolumeSet,
    folder: Path,
    config: GanConfig,
    device: torch.device,
    seed: int,
    notes: list[str],
) -> tuple[torch.nn.Module, int]:
    """Train the generator from source to target, or load it; return it and its number of parameters."""
    slices = _paired(scenario_sample, pair, names, volumes, config, notes) if kind == "pix2pix" else (
        _unpaired(scenario_sample, pair[0], names[0], volumes, config),
        _unpaired(scenario_sample, pair[1], names[1], volumes, config),
    )  # fmt: skip
    common = {
        "epochs": config.pix2pix_epochs if kind == "pix2pix" else config.cyclegan_epochs,
        "batch_size": config.batch_size,
        "width": config.width,
        "discriminator_layers": config.discriminator_layers,
    }
    dtype = half_precision(device) if device.type == "cuda" else torch.float32
    gan: Pix2Pix | CycleGan
    if kind == "pix2pix":
        gan = Pix2Pix(config.pixels, Pix2PixSettings(**common), seed=seed, device=device, dtype=dtype)
    else:
        settings = CycleGanSettings(**common, blocks=config.blocks)
        gan = CycleGan(config.pixels, settings, seed=seed, device=device, dtype=dtype)
    trainer = Trainer(gan, *slices, seed=seed)
    pair_folder = folder / f"{names[0]}-to-{names[1]}"
    pair_folder.mkdir(parents=True, exist_ok=True)
    checkpoint, history = pair_folder / "checkpoint.safetensors", pair_folder / "history.csv"
    rows: list[dict[str, Any]] = []
    last_log = time.monotonic()
    if checkpoint.exists() and history.exists():
        trainer.load_state(safetensors.torch.load_file(checkpoint))
        rows = pd.read_csv(history).head(trainer.epoch).to_dict("records")
        log.info("%s: resuming after epoch %d of %d", pair_folder.name, trainer.epoch, common["epochs"])
    for epoch in trainer.epochs():
        rows.append(epoch.row)
        sheet = axial_slices((255 * epoch.picture).byte().numpy(), trainer.gan.size)
        (pair_folder / f"epoch-{trainer.epoch:03d}.png").write_bytes(png_bytes(sheet))
        with replacing(history) as partial:
            pd.DataFrame(rows).to_csv(partial, index=False)
        with replacing(checkpoint) as partial:
            partial.write_bytes(safetensors.torch.save(trainer.state()))
        if time.monotonic() - last_log > LINE_EVERY_S:
            last_log = time.monotonic()
            log.info("%s %s: epoch %d of %d", kind, pair_folder.name, trainer.epoch, common["epochs"])
    parameters = sum(p.numel() for network in gan.networks.values() for p in network.parameters())
    return gan.networks["a_to_b"], parameters


def _paired(
    scenario_sample: ScenarioSample,
    pair: tuple[int, int],
    names: tuple[str, str],
    volumes: VolumeSet,
    config: GanConfig,
    notes: list[str],
) -> tuple[Tensor, Tensor]:
    """Return matching slices of all training observations that have both modalities."""
    present = scenario_sample.sample.modality_mask.cpu()
    both = [o for o in scenario_sample.sample.train.tolist() if bool(present[o, list(pair)].all())]
    if not both:
        raise CannotFit(
            f"no training subject has both {names[0]} and {names[1]}; pix2pix learns from pairs (cycleGAN does not)"
        )
    one, other = [], []
    for observation in both:
        a, b = (_scan(volumes, _names_of(scenario_sample, observation, m)[0]) for m in pair)
        pairs = paired_slices(
            *a, *b, size=config.pixels, field_of_view_mm=config.field_of_view_mm,
            slice_spacing_mm=config.slice_spacing_mm,
        )  # fmt: skip
        if pairs.note:
            notes.append(f"{scenario_sample.observations[observation]}: {pairs.note}")
        one.append(pairs.a)
        other.append(pairs.b)
    return torch.cat(one), torch.cat(other)


def _unpaired(
    scenario_sample: ScenarioSample, modality: int, name: str, volumes: VolumeSet, config: GanConfig
) -> Tensor:
    """Return slices of all training scans of one modality."""
    slices = []
    for observation in scenario_sample.sample.train.tolist():
        for scan in _names_of(scenario_sample, observation, modality):
            volume, mask, affine = _scan(volumes, scan)
            frame = brain_frame(
                mask, affine, size=config.pixels, field_of_view_mm=config.field_of_view_mm,
                slice_spacing_mm=config.slice_spacing_mm,
            )  # fmt: skip
            slices.append(to_frame(volume, affine, frame).clamp(0, 1))
    if not slices:
        raise CannotFit(f"no training subject has a {name}; no translation to it can be learnt")
    return torch.cat(slices)


def _translate(
    network: torch.nn.Module, given: Scan, config: GanConfig, spacing_mm: float, device: torch.device
) -> tuple[Scan, Frame]:
    """Impute a scan on a grid of the common voxel size; return it and the frame it was made in."""
    frame = brain_frame(
        given.mask, given.affine, size=config.pixels, field_of_view_mm=config.field_of_view_mm,
        slice_spacing_mm=spacing_mm,
    )  # fmt: skip
    inside = to_frame(given.mask, given.affine, frame)
    slices = translate(network.to(device), to_frame(given.volume, given.affine, frame).clamp(0, 1)) * inside
    volume, affine = from_frame(slices, frame)
    mask, _ = from_frame(inside.float(), frame)
    volume, new_affine = resample(volume, affine, spacing_mm=spacing_mm)
    mask, _ = resample(mask, affine, spacing_mm=spacing_mm)
    mask = mask > 0.5
    return Scan((volume.clamp(0, 1) * mask).contiguous(), mask, new_affine), frame


def imputed_path(folder: Path, observation: str, modality: str) -> Path:
    """Return the path of the imputed scan of an observation."""
    return folder / IMPUTED / f"{IMPUTED}_{observation}_{modality}.nii.gz"


def _write(
    folder: Path, observation: str, names: tuple[str, str], kind: Kind, made: Scan, marker: Marker, seed: int
) -> None:
    path = imputed_path(folder, observation, names[1])
    name = "/".join([*folder.parts[-3:], path.name])  # scenario, method and repeat: one name each in the marker's notes
    content = volume_bytes(
        made.volume.numpy(), made.mask.numpy(), made.affine, name=name, marker=marker,
        description=f"IMPUTED by {kind} from {names[0]}, not a scan",
    )  # fmt: skip
    facts = {
        "origin": IMPUTED, "observation": observation, "modality": names[1], "from": names[0], "network": kind,
        "what": "translated by a network from another scan of the same patient; never measured", "seed": seed,
    }  # fmt: skip
    write_image(path, content, {**facts, **marker.facts(name)})


def _quality(real: Tensor, given: Scan, made: Scan, frame: Frame) -> dict[str, float]:
    """Compute SSIM and PSNR against the real scan that was hidden."""
    imputed, _ = from_frame(to_frame(made.volume, made.affine, frame).clamp(0, 1), frame)
    inside, _ = from_frame(to_frame(given.mask, given.affine, frame).float(), frame)
    return ssim_psnr(imputed, real, mask=inside > 0.5)


def in_frame(scan: Scan, given: Scan, frame: Frame) -> Tensor:
    """Resample a scan to the frame of another one of the same subject, (X, Y, Z), in [0, 1]."""
    affine, _ = aligned(given.mask, given.affine, scan.mask, scan.affine)
    return from_frame(to_frame(scan.volume, affine, frame).clamp(0, 1), frame)[0]


def compared(
    volumes: VolumeSet, scans: Mapping[str, str], paths: Mapping[str, Path], config: GanConfig, spacing_mm: float
) -> dict[str, NDArray[np.float32]]:
    """Return the real scan of an observation and the imputed one of each baseline, on one grid, for a picture.

    Args:
        volumes: preprocessed scans.
        scans: "source" → the scan it was made from, "real" → the one that was hidden.
        paths: method → its imputed volume.
        config: sizes.
        spacing_mm: between the slices of the grid.
    """
    given = _scan(volumes, scans["source"])
    frame = brain_frame(
        given.mask, given.affine, size=config.pixels, field_of_view_mm=config.field_of_view_mm,
        slice_spacing_mm=spacing_mm,
    )  # fmt: skip
    images = {"real": in_frame(_scan(volumes, scans["real"]), given, frame).numpy()}
    for method, path in paths.items():
        image = read_volume(path)
        slices = to_frame(image[0].as_tensor(), image.affine.numpy(), frame)
        images[method] = from_frame(slices.clamp(0, 1), frame)[0].numpy()
    return images


def _names_of(scenario_sample: ScenarioSample, observation: int, modality: int) -> list[str]:
    """Return the scans of one modality that an observation has in the scenario."""
    sample = scenario_sample.sample
    rows = ((sample.observation == observation) & (sample.modality == modality)).nonzero().squeeze(1)
    return [scenario_sample.scans["scan"].iloc[i] for i in rows.tolist()]


def _scan(volumes: VolumeSet, scan: str) -> Scan:
    if (volumes.record(scan) or {}).get("kind") == "image":
        raise CannotFit(f"{scan} is a picture; pix2pix and cycleGAN translate volumes")
    volume, mask, affine = volumes.load_placed(scan)
    return Scan(volume, mask, affine)
