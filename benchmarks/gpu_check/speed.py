"""How fast is the device, beside its own matrix product, and which share of the time does it compute?"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from baselines.methods import SIMPLE
from baselines.translation.cyclegan import CycleGan, CycleGanSettings
from baselines.translation.pix2pix import Pix2Pix, Pix2PixSettings
from baselines.translation.training import Trainer
from benchmarks.bench_features import gflop_a_slice
from benchmarks.common import in_turns, matrix_product
from benchmarks.gpu_check.place import Place, encode, strip, synchronise
from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.training import fill, sample, train
from devices.precision import half_precision
from models.backbone import load_backbone, make_ready, pool_slices
from models.settings import Training
from pipeline.specs.baselines import GanConfig
from preprocessing.resample import resample
from preprocessing.skull_strip import NETWORK_SPACING_MM, SkullStripper
from preprocessing.volumes import read_volume


def rates(report: Report, place: Place) -> None:
    """Measure everything; the speed of the matrix product first, which the others are compared with."""
    tflops = _matrix_product(report, place)
    _hd_bet(report, place, tflops)
    _vgg(report, place, tflops)
    _table_row(report, place)
    _gans(report, place)


def utilisation(report: Report, place: Place) -> None:
    """Measure the share of the wall time that kernels run, for each stage and for the GANs."""
    if not place.cuda:
        return report.not_measured("share of the time that the device computes", "needs CUDA")
    heads, fitted = place.workspace("busy"), place.work / "busy-training"
    fill(fitted, subjects=300)
    works: dict[str, Callable[[], Any]] = {
        "stage preprocess": lambda: strip(heads, place.device, "auto"),
        "stage features, vgg16": lambda: encode(heads, place.device, "auto", backbone="vgg16"),
        "stages pretrain and classify, 3 epochs each": lambda: train(fitted, place.device, epochs=3),
        "pix2pix": lambda: _steps(place, "pix2pix", steps=20),
        "cycleGAN": lambda: _steps(place, "cyclegan", steps=5),
    }
    for name, work in works.items():
        share = busy_share(work, place.device)
        report.figure(f"{name}: share of the time that the device computes", share)


def busy_share(work: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of all kernels and copies of a work, over its wall time without the profiler.

    Pairs of CUDA events would count the gaps between kernels too, in which a device waits for its next launch.
    """
    wall = _seconds(work, device, rounds=1)
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
        work()
        synchronise(device)
    on_device = [event for event in seen.events() if event.device_type == DeviceType.CUDA]
    kernels = sum(event.self_device_time_total for event in on_device if not event.is_user_annotation)
    return float(kernels) / 1e6 / wall


def _seconds(work: Callable[[], Any], device: torch.device, *, rounds: int) -> float:
    """Return the median seconds of a work, after one that warms up."""

    def done() -> None:
        work()
        synchronise(device)

    return in_turns({"work": done}, rounds)["work"]


def _matrix_product(report: Report, place: Place) -> float:
    """Return 10¹² multiplications and additions a second, in the device's half precision."""
    size = 8192 if place.cuda else 1024
    dtype = half_precision(place.device)
    product = matrix_product(dtype, device=place.device, size=size)
    tflops = 2 * size**3 / 1e12 / _seconds(product, place.device, rounds=3 if place.quick else 20)
    report.figure(f"matrix product, {size}³, {dtype}", tflops, "TFLOP/s")
    return tflops


def _hd_bet(report: Report, place: Place, tflops: float) -> None:
    if place.quick:
        return report.not_measured("HD-BET: heads a minute", "--quick")
    image = read_volume(place.heads[0])
    volume, affine = image[0].as_tensor().to(place.device), np.asarray(image.affine)
    stripper = SkullStripper(device=place.device)
    grid, _ = resample(volume, affine, spacing_mm=NETWORK_SPACING_MM)
    grid = ((grid - grid.mean()) / grid.std(correction=0)).permute(2, 1, 0)
    with FlopCounterMode(display=False) as counter:
        stripper.probability(grid)
    _reset_peak(place)
    network = _seconds(lambda: stripper.probability(grid), place.device, rounds=10)
    whole = _seconds(lambda: stripper.mask(volume, affine), place.device, rounds=10)
    report.figure("HD-BET: heads a minute, from volume to mask", 60 / whole, f"{'×'.join(map(str, volume.shape))}")
    report.figure("HD-BET: the network alone", 1e3 * network, "ms")
    report.figure("HD-BET: share of a mask that is not the network", 1 - network / whole)
    share = counter.get_total_flops() / 1e12 / network / tflops
    report.figure("HD-BET: the network's share of the matrix-product rate", share)
    _peak(report, place, "HD-BET")


def _vgg(report: Report, place: Place, tflops: float) -> None:
    batch = 64 if place.cuda else 4
    slices = torch.rand(batch if place.quick else 4 * batch, 224, 224, generator=torch.Generator().manual_seed(0))
    for name in ("vgg11",) if place.quick else ("vgg11", "vgg16"):
        gflop = gflop_a_slice(load_backbone(name, random_seed=0))
        backbone = make_ready(load_backbone(name, random_seed=0), place.device)
        _reset_peak(place)
        for where, given in (("from main memory", slices), ("already on the device", slices.to(place.device))):
            work = partial(pool_slices, backbone, given, batch_slices=batch)
            rate = len(slices) / _seconds(work, place.device, rounds=1 if place.quick else 10)
            report.figure(f"{name}: slices a second, {where}", rate)
            share = rate * gflop / 1e3 / tflops
            report.figure(f"{name}: share of the matrix-product rate, {where}", share)
        _peak(report, place, name)


def _table_row(report: Report, place: Place) -> None:
    """Fit and test HyperMM as a row of table 1, from feature maps that are there."""
    subjects, training = (40, Training(epochs=2)) if place.quick else (300, Training())
    given = sample(subjects).to(place.device)

    def work() -> None:
        SIMPLE["hypermm"].fit(given, training).probabilities(given)

    seconds = _seconds(work, place.device, rounds=1)
    report.figure(f"HyperMM, a row of table 1, one repeat of {subjects} subjects", seconds, "s")


def _gans(report: Report, place: Place) -> None:
    for kind, steps in (("pix2pix", 200), ("cyclegan", 50)):
        steps = 2 if place.quick else steps
        _reset_peak(place)
        seconds = _seconds(partial(_steps, place, kind, steps=steps), place.device, rounds=1)
        name = f"{kind}, {_pixels(place)} pixels, batch {GanConfig().batch_size}"
        report.figure(f"{name}: steps a second", steps / seconds, "setting up included")
        _peak(report, place, name)


def _steps(place: Place, kind: str, *, steps: int) -> None:
    """Train for one epoch of so many steps, with the published sizes."""
    config, pixels, dtype = GanConfig(), _pixels(place), half_precision(place.device)
    sizes: dict[str, Any] = {"epochs": 1, "batch_size": config.batch_size}
    sizes |= {"width": 8 if place.quick else config.width, "discriminator_layers": config.discriminator_layers}
    gan: Any
    if kind == "pix2pix":
        gan = Pix2Pix(pixels, Pix2PixSettings(**sizes), seed=0, device=place.device, dtype=dtype)
    else:
        gan = CycleGan(pixels, CycleGanSettings(**sizes), seed=0, device=place.device, dtype=dtype)
    random = torch.Generator().manual_seed(0)
    source, target = (torch.rand(steps * config.batch_size, 1, pixels, pixels, generator=random) for _ in range(2))
    for _ in itertools.islice(Trainer(gan, source, target, seed=0).epochs(), 1):
        pass


def _pixels(place: Place) -> int:
    return 64 if place.quick else GanConfig().pixels


def _reset_peak(place: Place) -> None:
    if place.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(place.device)


def _peak(report: Report, place: Place, name: str) -> None:
    if place.cuda:
        report.figure(f"{name}: GPU memory, peak", torch.cuda.max_memory_reserved(place.device) / 1e9, "GB")
