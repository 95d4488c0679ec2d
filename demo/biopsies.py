"""A generated cohort of stained biopsies at four magnifications, in which no picture can be judged by itself.

Every picture shows four things: how crowded nuclei are, how large, how dark, and how strongly the tissue around them is
stained. Patients differ in all four (their tissue, their stain), pictures of one patient differ again, and a malignant
tumour adds little to that: at each magnification it moves one thing, another at each, and leaves the other three as
they are in this patient.

So a picture at 40X shows crowding with the tumour in it, and the pictures at 100X, 200X and 400X show what crowding is
in this patient without. A network that looks at the set can take one from the other, and what makes patients different
cancels. One that judges pictures one by one has no use for that: crowding at 100X says nothing about the class, so it
gets no weight, and the mean of the scores keeps all that makes patients different, however many pictures there are.

In standard deviations between patients, let e be `effect`, s `picture_spread`, and n the number of pictures at each of
the four magnifications. With the best possible scores of single pictures the classes lie 2e / sqrt(1 + s²/n) standard
deviations apart, once the scores are averaged. When patients are compared with themselves, they lie 2e / sqrt(4s²/3n)
apart. Statisticians call such an input a suppressor. Pathologists do the same when they ask whether a nucleus is large
*for this slide*.

What a set needs for it: a feature for each pair of a thing and a magnification, the mean or the maximum over the set,
and one linear layer. With the defaults and feature maps of VGG16, 100 subjects, five repeats with 60 subjects in train,
the mean of single-picture scores reached an AUC of .73 and HyperMM with a linear ρ .86; one picture, .60. With an
effect of 1.0 and ten validation subjects, early stopping ended training in the first epoch in one repeat of five.

These are drawings, not histology: nothing that is measured on them says anything about patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, model_validator
from scipy import ndimage

from demo.generator import Generator
from preprocessing.encoding import png_bytes

Magnification = Literal["40X", "100X", "200X", "400X"]
MAGNIFICATIONS: tuple[Magnification, ...] = ("40X", "100X", "200X", "400X")
PROPERTIES = ("crowding", "stroma", "size", "darkness")
"""What a picture shows; a malignant tumour adds to the first at 40X, to the second at 100X, and so on."""

# Half the length of a nucleus as a share of the picture's side. True magnifications would be 1 : 2.5 : 5 : 10; these
# grow more slowly, so that a small picture still resolves nuclei at 40X and holds more than a few at 400X.
NUCLEUS = {"40X": 0.012, "100X": 0.018, "200X": 0.027, "400X": 0.040}
COVERED = 0.22  # share of the picture that nuclei of a median patient would cover if none overlapped
HAEMATOXYLIN_DENSITY, EOSIN_DENSITY = 0.85, 0.32  # optical density of nuclei and of tissue in a median picture
# By what factor one standard deviation between patients changes a property, as a logarithm.
STEP = {"crowding": 0.40, "stroma": 0.45, "size": 0.20, "darkness": 0.35}
MOST = 2.5  # standard deviations; nothing lies further out
# Share of red, green and blue light that each stain takes. Source: Ruifrok and Johnston 2001, Anal. Quant. Cytol.
# Histol. 23:291, table of optical densities.
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])

# First number of every seed, so that no two purposes share random numbers.
_PAIR, _SUBJECT, _PROPERTIES, _PICTURE = range(10, 14)


class BiopsiesConfig(BaseModel, frozen=True, extra="forbid"):
    """Generated biopsies at four magnifications. By default a set tells clearly more than its mean score."""

    subjects: int = Field(100, ge=2, description="number of subjects; half have a malignant tumour")
    seed: int = Field(0, ge=0, description="same seed, same pictures")
    picture_px: int = Field(256, ge=64, le=1024, description="height and width of a picture, pixels")
    fewest: int = Field(3, ge=1, description="pictures of a subject at a magnification, at least")
    most: int = Field(9, ge=1, description="pictures of a subject at a magnification, at most")
    absent: float = Field(0.1, ge=0, lt=1, description="share of magnifications that a subject has no picture of")
    effect: float = Field(1.2, ge=0, le=3, description="what a malignant tumour adds, standard deviations of patients")
    picture_spread: float = Field(
        0.5, ge=0, le=3, description="how pictures of one patient differ, standard deviations of patients"
    )

    @model_validator(mode="after")
    def _counts_in_order(self) -> Self:
        if self.fewest > self.most:
            raise ValueError(f"fewest is {self.fewest} and most is {self.most}; fewest cannot be above most")
        return self


@dataclass(frozen=True)
class Biopsy:
    """One subject and the truth about it; also one row of the table.

    The four properties are those of the patient without a tumour, in standard deviations from the median patient.
    """

    subject: str  # "bio-001"
    tumour: Literal["benign", "malignant"]
    crowding: float
    stroma: float
    size: float
    darkness: float
    pictures_40X: int  # noqa: N815
    pictures_100X: int  # noqa: N815
    pictures_200X: int  # noqa: N815
    pictures_400X: int  # noqa: N815

    @property
    def number(self) -> int:
        """The number in the name, 1 for "bio-001"."""
        return int(self.subject.removeprefix("bio-"))

    def pictures(self, magnification: Magnification) -> int:
        """Return the number of pictures at a magnification, 0 for none."""
        return int(getattr(self, f"pictures_{magnification}"))


def biopsy(number: int, config: BiopsiesConfig) -> Biopsy:
    """Make the subject `number` (from 1), independent of the size of the cohort.

    Subjects 1 and 2, 3 and 4, … are pairs of one malignant and one benign tumour with the same number of pictures at
    each magnification, so that numbers do not tell the class. Every subject has a picture at one magnification at
    least.
    """
    pair, second = divmod(number - 1, 2)
    random = _generator(config, _PAIR, pair)
    malignant = bool(random.integers(2) == second)
    counts = random.integers(config.fewest, config.most + 1, size=len(MAGNIFICATIONS))
    present = random.random(len(MAGNIFICATIONS))
    counts[(present < config.absent) & (present < present.max())] = 0
    patient = _generator(config, _SUBJECT, number).standard_normal(len(PROPERTIES)).clip(-MOST, MOST)
    shown = dict(zip(PROPERTIES, np.round(patient, 6).tolist(), strict=True))
    pictures = dict(zip((f"pictures_{name}" for name in MAGNIFICATIONS), counts.tolist(), strict=True))
    return Biopsy(subject=f"bio-{number:03d}", tumour="malignant" if malignant else "benign", **shown, **pictures)


def biopsy_table(config: BiopsiesConfig) -> pd.DataFrame:
    """List the subjects, one a row, columns as in `Biopsy`. `Biopsy(**row)` turns a row (a dict) back."""
    return pd.DataFrame([asdict(biopsy(number, config)) for number in range(1, config.subjects + 1)])


def picture_table(config: BiopsiesConfig) -> pd.DataFrame:
    """List the pictures, one a row.

    Returns:
        Columns `subject`, `modality` (a magnification), `path` ("bio-001_40X_01.png"), `tumour` (benign, malignant),
        `picture` (from 1), and what the picture shows: `PROPERTIES`, as `picture_properties` returns them.
    """
    rows: list[dict[str, object]] = []
    for number in range(1, config.subjects + 1):
        subject = biopsy(number, config)
        for modality in MAGNIFICATIONS:
            for picture in range(1, subject.pictures(modality) + 1):
                row = {"subject": subject.subject, "modality": modality}
                row |= {"path": f"{subject.subject}_{modality}_{picture:02d}.png"}
                known: dict[str, object] = {"tumour": subject.tumour, "picture": picture}
                rows.append(row | known | picture_properties(subject, modality, picture, config))
    return pd.DataFrame(rows)


def picture_properties(
    subject: Biopsy, modality: Magnification, picture: int, config: BiopsiesConfig
) -> dict[str, float]:
    """Return the properties of one picture: of the patient, the tumour at this magnification, and random variation.

    Args:
        subject: made by `biopsy` or `Biopsy(**row)`.
        modality: a magnification.
        picture: number of the picture, from 1.
        config: the cohort.

    Returns:
        For every name in `PROPERTIES` a float in [-3, 3]: standard deviations (between patients) from the median.

    Raises:
        ValueError: the magnification is unknown, or the subject has no such picture.
    """
    if modality not in MAGNIFICATIONS:
        known = ", ".join(MAGNIFICATIONS)
        raise ValueError(f"{subject.subject}: magnification {modality!r} is unknown; expected {known}")
    if not 1 <= picture <= subject.pictures(modality):
        raise ValueError(
            f"{subject.subject}: there is no picture {picture} at {modality}; it has {subject.pictures(modality)}"
        )
    level = MAGNIFICATIONS.index(modality)
    values = np.array([getattr(subject, name) for name in PROPERTIES])
    random = _generator(config, _PROPERTIES, subject.number, level, picture)
    values += config.picture_spread * random.standard_normal(len(PROPERTIES))
    values[level] += config.effect * ((subject.tumour == "malignant") - 0.5)
    return dict(zip(PROPERTIES, np.round(values.clip(-MOST, MOST), 6).tolist(), strict=True))


def make_picture(subject: Biopsy, modality: Magnification, picture: int, config: BiopsiesConfig) -> np.ndarray:
    """Draw one picture as a stained section in transmitted light.

    Args:
        subject: made by `biopsy` or `Biopsy(**row)`.
        modality: a magnification.
        picture: number of the picture, from 1.
        config: the cohort.

    Returns:
        (picture_px, picture_px, 3), uint8, RGB.

    Raises:
        ValueError: the magnification is unknown, or the subject has no such picture.
    """
    shown = picture_properties(subject, modality, picture, config)
    random = _generator(config, _PICTURE, subject.number, MAGNIFICATIONS.index(modality), picture)
    return draw_section(shown, modality, config.picture_px, random)


def draw_section(
    shown: dict[str, float], modality: Magnification, picture_px: int, random: np.random.Generator
) -> np.ndarray:
    """Draw a section with given properties; the light that is left is 10^(-optical density) of each stain (Beer's law).

    Args:
        shown: for every name in `PROPERTIES` standard deviations from the median.
        modality: a magnification; sets how large nuclei are and so how many fit.
        picture_px: height and width.
        random: where nuclei lie, their shapes, the texture of the tissue, the noise of the camera.

    Returns:
        (picture_px, picture_px, 3), uint8, RGB.
    """
    factor = {name: float(np.exp(STEP[name] * shown[name])) for name in PROPERTIES}
    size_px = NUCLEUS[modality] * picture_px
    expected = factor["crowding"] * COVERED / (np.pi * NUCLEUS[modality] ** 2)
    nuclei = _nuclei(random, int(expected + random.random()), size_px * factor["size"], picture_px)
    texture = ndimage.gaussian_filter(
        random.standard_normal((picture_px,) * 2), (size_px / 2, 2 * size_px), mode="wrap"
    )
    tissue = 1 + 0.15 * (texture / texture.std()).clip(-2.5, 2.5)
    haematoxylin = HAEMATOXYLIN_DENSITY * factor["darkness"] * nuclei
    eosin = EOSIN_DENSITY * factor["stroma"] * tissue * (1 - 0.7 * nuclei.clip(0, 1))
    density = haematoxylin[..., None] * HAEMATOXYLIN + eosin[..., None] * EOSIN
    light = 10**-density + 0.01 * random.standard_normal(density.shape)
    return np.rint(245 * light).clip(0, 255).astype(np.uint8)


def _nuclei(random: np.random.Generator, count: int, half_length_px: float, picture_px: int) -> np.ndarray:
    """Draw ellipses with soft edges, some darker than others; (picture_px, picture_px), about 1 inside, 0 outside."""
    side = int(np.ceil(np.sqrt(count)))  # one to a cell of a grid, anywhere in it: not as clumped as chance would be
    cells = np.stack(np.divmod(random.permutation(side**2)[:count], side), axis=1)
    centres = (cells + random.random((count, 2))) * picture_px / side
    long_px = half_length_px * np.exp(0.15 * random.standard_normal(count)).clip(0.6, 1.6)
    wide_px = long_px * random.uniform(0.6, 1, count)
    turn = random.uniform(0, np.pi, count)
    dark = np.exp(0.12 * random.standard_normal(count))
    reach = int(np.ceil(1.6 * half_length_px)) + 1
    steps = np.arange(-reach, reach + 1)
    corner = np.floor(centres).astype(int)
    rows = corner[:, :1, None] + steps[None, :, None]  # (count, k, 1)
    columns = corner[:, 1:, None] + steps[None, None, :]  # (count, 1, k)
    down, right = rows - centres[:, :1, None], columns - centres[:, 1:, None]
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    along, across = (
        (right * cos + down * sin) / long_px[:, None, None],
        (down * cos - right * sin) / wide_px[:, None, None],
    )
    inside = ((1 - np.hypot(along, across)) * wide_px[:, None, None] + 0.5).clip(0, 1) * dark[:, None, None]
    canvas = np.zeros((picture_px + 2 * reach + 1,) * 2)  # nuclei may be cut by the edge
    np.maximum.at(canvas, (rows + reach, columns + reach), inside)
    return canvas[reach : reach + picture_px, reach : reach + picture_px]


def _generator(config: BiopsiesConfig, *key: int) -> np.random.Generator:
    return np.random.default_rng([key[0], config.seed, *key[1:]])


# --- The files ---


def manifest(config: BiopsiesConfig) -> pd.DataFrame:
    """List the pictures, without what they show."""
    table = picture_table(config)
    paths = table["path"].str.removesuffix(".png") + "/biopsy.png"
    return table[["subject", "modality", "tumour"]].assign(path=paths)


def files(row: Mapping[str, Any], config: BiopsiesConfig) -> dict[str, bytes]:
    """Draw the picture of a row of the manifest."""
    subject = biopsy(int(row["subject"].removeprefix("bio-")), config)
    picture = int(row["path"].split("/")[0].rpartition("_")[2])
    return {row["path"]: png_bytes(make_picture(subject, row["modality"], picture, config))}


GENERATOR = Generator(BiopsiesConfig, manifest, files, truth=biopsy_table)
