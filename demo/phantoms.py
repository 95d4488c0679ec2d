"""A demo cohort of head phantoms with known truth: diagnosis, sign of disease in each scan, brain mask.

Every head is the ICBM152 average brain, bent into an anatomy of its own, wrapped in skull, muscle and scalp, and seen
by an MRI and an FDG-PET scanner. Alzheimer's disease ("AD") marks the two scans separately: atrophy on the MRI,
hypometabolism on the PET. Not every patient shows both, so one modality alone is less informative than two.
(A real atrophy shows on a PET too. Here it is left out of the PET, so that each sign belongs to one modality.)

Positions are millimetres in three frames, and a scan is sampled backwards through them: *world* (the scanner, what the
affine of the header says) → *subject* (the head lying still) → *template* (ICBM152, MNI coordinates, RAS+).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field
from scipy import ndimage

from demo._icbm152 import column, icbm152
from demo.generator import Generator
from preprocessing.encoding import nifti_bytes

Modality = Literal["MRI", "PET"]

FIELD_OF_VIEW_MM = (192.0, 224.0, 192.0)  # left-right, back-front, bottom-top
FIELD_CENTRE_MM = (0.0, -18.0, 6.0)  # template position of the middle of the field of view
LATTICE_MM = 4.0  # everything smooth is worked out on a lattice this coarse, then interpolated

# Centres of the hippocampi. Source: Harvard-Oxford subcortical atlas (rounded). Template millimetres, as all below.
HIPPOCAMPI_MM = ((-26.0, -22.0, -16.0), (26.0, -22.0, -16.0))
HIPPOCAMPUS_RADII_MM = (9.0, 16.0, 9.0)
# Angular gyri (temporo-parietal) and precuneus with posterior cingulate, rounded. Source: FDG-PET regions of interest
# in AD, Landau et al. 2011, Neurobiol. Aging 32:1207. The radii are ours.
HYPOMETABOLIC_MM = ((-50.0, -58.0, 34.0), (50.0, -58.0, 34.0), (0.0, -52.0, 30.0))
HYPOMETABOLIC_RADII_MM = ((28.0, 32.0, 36.0), (28.0, 32.0, 36.0), (16.0, 26.0, 28.0))

# Length of a brain as a share of the template's, which is larger than life.
# Source: Lancaster et al. 2007, Hum. Brain Mapp. 28:1194 (by how much is ours).
BRAIN_SIZE = {"F": 0.92, "M": 0.95}

# Signal of each tissue. MRI: T1-weighted, white matter = 1; the sites differ in contrast, gain, noise, slice thickness.
# PET: grey matter = 1; grey to white matter is 4:1. Source: Hoffman et al. 1991, J. Cereb. Blood Flow Metab. 11:A17
# (in it 5:1:0 for grey, white and fluid).
MRI_SIGNAL = {
    "A": {"grey": 0.68, "white": 1.00, "fluid": 0.26, "skull": 0.10, "muscle": 0.45, "scalp": 1.05},
    "B": {"grey": 0.66, "white": 1.00, "fluid": 0.24, "skull": 0.12, "muscle": 0.50, "scalp": 0.95},
}
PET_SIGNAL = {"grey": 1.00, "white": 0.25, "fluid": 0.0, "skull": 0.06, "muscle": 0.18, "scalp": 0.14}
SITE_NOISE = {"A": 1.00, "B": 1.10}
SITE_SLICE_THICKNESS = {"A": 1.00, "B": 1.10}  # axial, as a multiple of the voxel size
PET_BLUR_MM, PET_POSTFILTER_MM = 6.0, 3.5  # full width at half maximum: total, and of the filter after counting

# First number of every seed, so that no two purposes share random numbers.
_PAIR, _PENETRANCE, _SUBJECT, _ANATOMY, _MRI, _PET = range(6)


class PhantomsConfig(BaseModel, frozen=True, extra="forbid"):
    """Head phantoms, MRI and PET. The defaults make both modalities together clearly better than either."""

    subjects: int = Field(40, ge=2, description="number of subjects; half have AD")
    seed: int = Field(0, ge=0, description="same seed, same bytes")
    mri_voxel_mm: float = Field(1.5, ge=0.8, le=6, description="MRI voxel size, mm")
    pet_voxel_mm: float = Field(3.0, ge=0.8, le=6, description="PET voxel size, mm")
    pet_share: float = Field(0.5, ge=0, le=1, description="share of subjects with a PET; everybody has an MRI")
    penetrance: float = Field(0.7, ge=0.5, le=1, description="share of AD subjects who show the sign of a modality")
    hippocampal_loss: float = Field(0.6, ge=0, le=0.8, description="MRI sign: share of the hippocampal volume lost")
    ventricle_growth_mm: float = Field(
        5.0, ge=0, le=8, description="MRI sign: how far ventricle walls move outwards, mm"
    )
    hypometabolism: float = Field(0.6, ge=0, le=0.9, description="PET sign: share of the regional uptake lost")
    anatomy_mm: float = Field(1.2, ge=0, le=4, description="standard deviation of the random deformation of a head, mm")
    mri_noise: float = Field(0.02, ge=0, le=0.3, description="noise of the MRI, share of the white matter signal")
    pet_noise: float = Field(
        0.05, ge=0, le=0.5, description="counting noise of the PET in grey matter, share of its uptake"
    )
    sign_by_sex: Literal["both", "F", "M"] = Field(
        "both", description="harm to be found: the ill of this sex alone show signs, those of the other look well"
    )
    site_gain: float = Field(1.15, gt=0, le=10, description="intensity of site B as a multiple of that of site A")

    def gain(self, site: str) -> float:
        """Return the intensity of a site as a multiple of that of site A."""
        return self.site_gain if site == "B" else 1.0


@dataclass(frozen=True)
class Phantom:
    """One subject and the truth about it; also one row of the table."""

    subject: str  # "sub-001"
    diagnosis: Literal["AD", "CN"]
    age: float  # years
    sex: Literal["F", "M"]
    site: Literal["A", "B"]
    has_pet: bool
    mri_sign: bool
    pet_sign: bool

    @property
    def number(self) -> int:
        """The number in the name, 1 for "sub-001"."""
        return int(self.subject.removeprefix("sub-"))


def phantom(number: int, config: PhantomsConfig) -> Phantom:
    """Make the subject `number` (from 1), independent of the size of the cohort.

    Subjects 1 and 2, 3 and 4, … are pairs of one AD and one CN of the same site, both with a PET or both without, so
    that neither site nor PET tells the diagnosis.
    """
    pair, second = divmod(number - 1, 2)
    ill = bool(_generator(config, _PAIR, pair).integers(2) == second)
    # The MRI sign is missing in a share (1 - penetrance) of the ill, the PET sign in another, never both. Steps of the
    # golden ratio spread evenly over [0, 1), so that small cohorts keep these shares too.
    turn = float(_generator(config, _PENETRANCE, 0).random() + pair * (np.sqrt(5) - 1) / 2) % 1
    missing = 1 - config.penetrance
    random = _generator(config, _SUBJECT, number)
    age = round(float(random.uniform(60, 85)), 1)
    sex: Literal["F", "M"] = "F" if random.random() < 0.5 else "M"
    shows = ill and config.sign_by_sex in ("both", sex)
    return Phantom(
        subject=f"sub-{number:03d}",
        diagnosis="AD" if ill else "CN",
        age=age,
        sex=sex,
        site="A" if pair // 2 % 2 == 0 else "B",
        has_pet=int((pair + 1) * config.pet_share + 1e-9) > int(pair * config.pet_share + 1e-9),
        mri_sign=shows and not turn < missing,
        pet_sign=shows and not missing <= turn < 2 * missing,
    )


def phantom_table(config: PhantomsConfig) -> pd.DataFrame:
    """List the subjects, one a row, columns as in `Phantom`. `Phantom(**row)` turns a row (a dict) back."""
    return pd.DataFrame([asdict(phantom(number, config)) for number in range(1, config.subjects + 1)])


def make_scan(
    subject: Phantom, modality: Modality, config: PhantomsConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image one subject.

    Args:
        subject: made by `phantom` or `Phantom(**row)`.
        modality: "MRI" (T1-weighted) or "PET" (FDG).
        config: the cohort.

    Returns:
        Volume (X, Y, Z), int16 for MRI (white matter about 1000) and float32 for PET (grey matter about 5), axes RAS+;
        true brain mask (X, Y, Z), uint8, 1 where more than half of the voxel is brain or the fluid in it;
        affine (4, 4), float64, voxel indices to world millimetres. The head lies a little differently in each scanner.

    Raises:
        ValueError: the modality is neither.
    """
    if modality not in ("MRI", "PET"):
        raise ValueError(f"{subject.subject}: modality {modality!r} is unknown; expected 'MRI' or 'PET'")
    voxel_mm = config.mri_voxel_mm if modality == "MRI" else config.pet_voxel_mm
    spacing_mm = voxel_mm * np.array([1.0, 1.0, SITE_SLICE_THICKNESS[subject.site]])
    shape = tuple(int(n) for n in np.ceil(np.array(FIELD_OF_VIEW_MM) / spacing_mm))
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = FIELD_CENTRE_MM - spacing_mm * (np.array(shape) - 1) / 2

    random = _generator(config, _MRI if modality == "MRI" else _PET, subject.number)
    lattice_world = _lattice(affine, shape)
    lattice_subject = _scanner_to_subject(random, lattice_world)
    atrophy = subject.mri_sign and modality == "MRI"
    lattice_template, layers_mm = _anatomy(subject, config, lattice_subject, atrophy=atrophy)
    tissue = _tissues(_upsample(lattice_template, shape), _upsample(layers_mm, shape), spacing_mm)
    if modality == "MRI":
        volume = _mri(random, subject, config, tissue, lattice_template, lattice_world)
    else:
        volume = _pet(random, subject, config, tissue, lattice_template, spacing_mm)
    return volume, (tissue["brain"] > 0.5).astype(np.uint8), affine


def _generator(config: PhantomsConfig, purpose: int, number: int) -> np.random.Generator:
    return np.random.default_rng([purpose, config.seed, number])


# --- Geometry: positions and fields are (3 or n, X, Y, Z), float32 ---


def _lattice(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Make world positions of a lattice, about `LATTICE_MM` apart, that ends on the corner voxels of the scan."""
    axes = []
    for axis, size in enumerate(shape):
        first_mm, length_mm = affine[axis, 3], affine[axis, axis] * (size - 1)
        axes.append(np.linspace(first_mm, first_mm + length_mm, int(np.ceil(length_mm / LATTICE_MM)) + 1))
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def _upsample(field: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate a field (n, x, y, z) linearly on to (n, *shape), corners on corners; three small matrix products."""
    for axis, size in enumerate(shape, start=1):
        coarse = field.shape[axis]
        hats = np.maximum(0, 1 - np.abs(np.linspace(0, coarse - 1, size)[:, None] - np.arange(coarse)))
        field = np.moveaxis(np.tensordot(hats.astype(np.float32), field, (1, axis)), 0, axis)
    return field


def _smooth_field(random: np.random.Generator, positions: np.ndarray, knots_mm: float) -> np.ndarray:
    """Make a random smooth function of position, (x, y, z), about N(0, 0.6²): cubic spline through normal knots."""
    reach = np.array(FIELD_OF_VIEW_MM) / 2 + 2 * knots_mm
    knots = random.standard_normal([int(n) for n in np.ceil(2 * reach / knots_mm)]).astype(np.float32)
    corner = np.array(FIELD_CENTRE_MM) - reach
    return ndimage.map_coordinates(knots, (positions - column(corner)) / np.float32(knots_mm), order=3, mode="nearest")


def _blobs(positions: np.ndarray, centres_mm: tuple, radii_mm: tuple, power: float) -> np.ndarray:
    """Compute exp(-r^power) of the nearest ellipsoid: 1 in centres, 1/e on surfaces, 0 far away; (x, y, z)."""
    squares = [
        np.sum(((positions - column(centre)) / column(radii)) ** 2, axis=0)
        for centre, radii in zip(centres_mm, radii_mm, strict=True)
    ]
    return np.exp(-(np.min(squares, axis=0) ** (power / 2)))


def _scanner_to_subject(random: np.random.Generator, world: np.ndarray) -> np.ndarray:
    """Undo how the head lies in this scanner: turned by about 2°, shifted by about 3 mm."""
    x, y, z = np.radians(random.normal(0, 2, size=3).clip(-5, 5))
    turn_x = [[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]]
    turn_y = [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]
    turn_z = [[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]]
    rotation = (np.array(turn_x) @ turn_y @ turn_z).astype(np.float32)
    centre, shift = column(FIELD_CENTRE_MM), column(random.normal(0, 3, size=3).clip(-7, 7))
    return np.tensordot(rotation, world - centre - shift, axes=1) + centre


def _anatomy(
    subject: Phantom, config: PhantomsConfig, positions: np.ndarray, *, atrophy: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Map positions of the subject to the template, and compute the limits of the head's layers at them.

    The random numbers depend on the subject alone, so MRI and PET show the same head.

    Returns:
        Template positions (3, x, y, z), mm; outer limits of fluid, skull and scalp (3, x, y, z), mm from the brain.
    """
    random = _generator(config, _ANATOMY, subject.number)
    size = BRAIN_SIZE[subject.sex] * (1 + 0.015 * random.standard_normal(3).clip(-2, 2))
    template = (positions - column(FIELD_CENTRE_MM)) / column(size) + column(FIELD_CENTRE_MM)
    bends = [_smooth_field(random, template, knots_mm=40) for _ in range(3)]
    template = template + np.float32(config.anatomy_mm / 0.6) * np.stack(bends)

    # Ventricles: sampling nearer to them makes them larger. 0.03 mm a year of age, a spread of 0.3 mm, and the disease.
    growth_mm = 0.03 * (subject.age - 60) + 0.3 * random.standard_normal() + config.ventricle_growth_mm * atrophy
    icbm = icbm152(2)
    pull = np.stack([icbm.sample(axis, template) for axis in icbm.towards_ventricles])
    shifted = template + np.float32(growth_mm) * pull

    # Hippocampi: sampling further from their centre makes them smaller.
    magnification = (1 - config.hippocampal_loss * atrophy) ** (-1 / 3)
    for centre in HIPPOCAMPI_MM:
        inside = _blobs(template, (centre,), (HIPPOCAMPUS_RADII_MM,), power=2)
        shifted += np.float32(magnification - 1) * inside * (template - column(centre))

    thickness = [np.exp(0.2 * _smooth_field(random, template, knots_mm=48)) * mean_mm for mean_mm in (2.0, 6.0, 6.0)]
    return shifted, np.cumsum(thickness, axis=0).astype(np.float32)


# --- The head ---


def _tissues(template: np.ndarray, layers_mm: np.ndarray, spacing_mm: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the share of tissues in every voxel (X, Y, Z), float32 in [0, 1]; `brain` is all inside its surface."""
    icbm, coarse = icbm152(1 if spacing_mm[0] < 2.5 else 2), icbm152(2)
    grey, white, brain = (icbm.sample(values, template) for values in (icbm.grey, icbm.white, icbm.brain))
    brain_mm, head_mm = (coarse.sample(values, template) for values in (coarse.brain_mm, coarse.head_mm))

    def within(distance_mm: np.ndarray, limit_mm: np.ndarray) -> np.ndarray:
        return np.clip((limit_mm - distance_mm) / np.float32(spacing_mm[0]) + 0.5, 0, 1)

    skull_inside = np.maximum(within(brain_mm, layers_mm[0]), brain)
    skull_outside = np.maximum(within(brain_mm, layers_mm[1]), skull_inside)
    muscle_outside = np.maximum(within(head_mm, layers_mm[1]), skull_outside)
    return {
        "grey": grey,
        "white": white,
        "fluid": np.maximum(skull_inside - grey - white, 0),
        "skull": skull_outside - skull_inside,
        "muscle": muscle_outside - skull_outside,
        "scalp": np.maximum(within(head_mm, layers_mm[2]) - muscle_outside, 0),
        "brain": brain,
    }


# --- The scanners ---


def _mri(
    random: np.random.Generator, subject: Phantom, config: PhantomsConfig, tissue: dict[str, np.ndarray],
    template: np.ndarray, world: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Render a T1-weighted MRI: contrast of the site, hippocampal loss, bias field, Rician noise; int16."""
    shape = tissue["grey"].shape
    contrast = MRI_SIGNAL[subject.site]
    signal = sum(np.float32(contrast[name]) * tissue[name] for name in contrast)
    if subject.mri_sign:
        blobs = _blobs(template, HIPPOCAMPI_MM, (HIPPOCAMPUS_RADII_MM,) * 2, power=2)
        loss = _upsample(np.float32(config.hippocampal_loss) * blobs[None], shape)[0]
        for name in ("grey", "white"):
            signal += np.float32(contrast["fluid"] - contrast[name]) * loss * tissue[name]
    bias = np.exp(0.1 * _smooth_field(random, world, knots_mm=80))
    signal *= _upsample(bias[None].astype(np.float32), shape)[0]
    noise = np.float32(config.mri_noise * SITE_NOISE[subject.site])
    real, imaginary = (noise * random.standard_normal(shape, dtype=np.float32) for _ in range(2))
    gain = config.gain(subject.site) * random.uniform(0.9, 1.1)
    return np.rint(1000 * gain * np.hypot(signal + real, imaginary)).astype(np.int16)


def _pet(
    random: np.random.Generator, subject: Phantom, config: PhantomsConfig, tissue: dict[str, np.ndarray],
    template: np.ndarray, spacing_mm: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Render FDG uptake: regional variation and loss, blur of the scanner, counting noise, post-filter; float32."""
    shape = tissue["grey"].shape
    uptake = sum(np.float32(PET_SIGNAL[name]) * tissue[name] for name in PET_SIGNAL)
    regional = np.exp(0.03 * _smooth_field(random, template, knots_mm=40))
    if subject.pet_sign:
        regional *= 1 - config.hypometabolism * _blobs(template, HYPOMETABOLIC_MM, HYPOMETABOLIC_RADII_MM, power=4)
    uptake *= _upsample(regional[None].astype(np.float32), shape)[0]

    fwhm_to_sigma = 1 / np.sqrt(8 * np.log(2))
    scanner_mm = np.sqrt(PET_BLUR_MM**2 - PET_POSTFILTER_MM**2)
    uptake = ndimage.gaussian_filter(uptake, scanner_mm * fwhm_to_sigma / spacing_mm)
    noise = config.pet_noise * SITE_NOISE[subject.site]
    if noise > 0:
        uptake = (random.poisson(uptake / noise**2) * noise**2).astype(np.float32)
    uptake = ndimage.gaussian_filter(uptake, PET_POSTFILTER_MM * fwhm_to_sigma / spacing_mm)
    return (5 * config.gain(subject.site) * random.uniform(0.85, 1.15) * uptake).astype(np.float32)


# --- The files ---


def manifest(config: PhantomsConfig) -> pd.DataFrame:
    """List the scans, with no sign of disease but the diagnosis; which sign a phantom carries is the truth."""
    return pd.DataFrame(
        [
            {"subject": row.subject, "modality": modality, "path": f"{row.subject}_{modality}/scan.nii.gz"}
            | {name: getattr(row, name) for name in ("diagnosis", "age", "sex", "site")}
            for row in phantom_table(config).itertuples()
            for modality in ("MRI", "PET")
            if modality == "MRI" or row.has_pet
        ]
    )


def files(row: Mapping[str, Any], config: PhantomsConfig) -> dict[str, bytes]:
    """Make the scan of a row of the manifest, and its true brain mask beside it."""
    subject = phantom(int(row["subject"].removeprefix("sub-")), config)
    volume, mask, affine = make_scan(subject, row["modality"], config)
    return {
        row["path"]: nifti_bytes(volume, affine, "HyperMM demo phantom, not a person"),
        f"{row['subject']}_{row['modality']}/true_mask.nii.gz": nifti_bytes(
            mask, affine, "HyperMM demo phantom, true brain"
        ),
    }


GENERATOR = Generator(PhantomsConfig, manifest, files, truth=phantom_table, packages=("nilearn",))
