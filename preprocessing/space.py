"""Where a scan's voxels lie in the world, as its header says; what the header leaves open is not filled in.

A scan is refused if its header does not say how large its voxels are and which way its axes run, or says it twice and
differently. Whether left and right are swapped cannot be seen in a head; so `Space.source` says where they came from.

NIfTI has two affines. Differences that registration makes (a rotation below 45°, a shift) are remarked, and the sform
is used, as nibabel does. Voxel sizes that differ by more than 1 %, or swapped or mirrored axes, are a contradiction.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import nibabel
import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import ScanError
from preprocessing.limits import check_affine, times

Affine = NDArray[np.float64]
Form = Literal["sform", "qform"]

FORMS: tuple[Form, Form] = ("sform", "qform")  # nibabel's order of preference
FORM_NAMES = {1: "scanner", 2: "aligned", 3: "Talairach", 4: "MNI", 5: "template"}
NIFTI_UNITS = {0: ("no unit", 1.0), 1: ("metre", 1000.0), 2: ("mm", 1.0), 3: ("micron", 0.001)}
UNITS = {"": 1.0, "?": 1.0, "mm": 1.0, "millimeter": 1.0, "m": 1000.0, "cm": 10.0, "um": 0.001, "µm": 0.001}
SAME_SIZE = 0.01  # relative difference between two statements of a voxel size
SAME_PLACE_MM = 1.0  # between two statements of where a corner of the frame lies
LARGEST_ALIGNMENT_DEGREES = 45.0  # between two spaces of one head; beyond, other axes of the head are the nearest ones
SKEWED_DEGREES = 1.0  # off right angles, from where on it is remarked
ANATOMICAL = dict.fromkeys(("ras", "right-anterior-superior"), "right-anterior-superior")
ANATOMICAL |= dict.fromkeys(("las", "left-anterior-superior"), "left-anterior-superior")
ANATOMICAL |= dict.fromkeys(("lps", "left-posterior-superior"), "left-posterior-superior")
SYNONYMS = (("TransformMatrix", "Rotation", "Orientation"), ("Offset", "Position", "Origin"))  # of MetaImage
OPPOSITE = str.maketrans("RLAPIS", "LRPASI")
ITK_RECIPE = (
    "Convert it again from the source; or, if you know how it lies: image = SimpleITK.ReadImage('scan{0}'); "
    "image.SetSpacing(...); image.SetDirection(...); SimpleITK.WriteImage(image, 'scan.nii.gz')"
)


@dataclass(frozen=True)
class Space:
    """The place of a scan's voxels.

    Attributes:
        affine: voxel to world, (4, 4), mm, RAS+.
        source: what orientation, left and right, and voxel size were read from.
        remarks: sentences for the scan's record, `kind: details`.
    """

    affine: Affine
    source: str
    remarks: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return orientation, voxel size (mm) and source for the scan's record."""
        return {
            "orientation": "".join(map(str, nibabel.aff2axcodes(self.affine))),
            "voxel_mm": np.linalg.norm(self.affine[:3, :3], axis=0).round(4).tolist(),
            "space_from": self.source,
        }


def nifti_space(header: Any, shape: Sequence[int], *, trust: Form | None) -> Space:
    """Read the place from a NIfTI header.

    Args:
        header: `Nifti1Header` or `Nifti2Header` as it stands in the file: not checked, since nibabel repairs it then.
        shape: of the first three axes.
        trust: the affine to use where both differ, or where neither has a code; None: refuse those.

    Raises:
        ScanError: the place is not stated, stated twice and differently, or impossible.
    """
    codes = {form: int(header[f"{form}_code"]) for form in FORMS}
    stated = [form for form in FORMS if codes[form] in FORM_NAMES]
    number = int(header["xyzt_units"]) & 7
    if number not in NIFTI_UNITS:
        raise ScanError(f"xyzt_units in the NIfTI header is {number}, which is no unit of length; set it to 2 (mm)")
    unit, factor = NIFTI_UNITS[number]
    remarks = [f"unit converted: the NIfTI header gives lengths in {unit}"] * (factor != 1)
    if trust and (trust in stated or not stated):
        note = "" if stated else ", though its code is 0"
        return Space(_nifti_affine(header, trust, unit, factor), f"trust: {trust}{note}", tuple(remarks))
    if not stated:
        raise ScanError(
            "the NIfTI header does not say how the head lies in the voxels: neither sform_code nor qform_code is set "
            "(both are 0, or no code of NIfTI), and programs then assume different orientations. Convert it again "
            "from the source, or set sform or qform in the header; if one of them is right but for its code, set "
            "trust: sform (or qform) for its modality in cohort.modalities"
        )
    affines = {form: _nifti_affine(header, form, unit, factor) for form in stated}
    _check_sizes(header, affines, factor)
    named = {form: f"{form} ({FORM_NAMES[codes[form]]})" for form in stated}
    source = " and ".join(named.values())
    if len(affines) == 2:
        difference = _difference(affines, shape)
        source = f"{named['sform']}; {named['qform']} differs" if difference else "sform and qform agree"
        if difference:
            remarks.append(f"two places: {named['sform']} and {named['qform']} {difference}; the sform was used")
    if "qform" in affines and header["pixdim"][0] == 0:
        source += "; qfac 0 is taken for 1, as NIfTI says"
    source += "; no unit, taken for mm" if number == 0 else ""
    return Space(affines[stated[0]], source, tuple(remarks))


def mgh_space(header: NDArray[Any], affine: Affine) -> Space:
    """Check the place in a MGH header.

    Args:
        header: as it stands in the file, `nibabel.freesurfer.mghformat.header_dtype`.
        affine: as nibabel reads it.

    Raises:
        ScanError: the place is not stated, stated twice and differently, or impossible.
    """
    if header["goodRASFlag"] <= 0:
        raise ScanError(
            f"the MGH header does not say where the voxels lie (goodRASFlag is {header['goodRASFlag']}), and programs "
            "then assume coronal slices of 1 mm. Convert it again from the source, with mri_convert"
        )
    check_affine(affine)
    check_directions(header["Mdc"].T, "Mdc in the MGH header")
    return Space(affine, "MGH header")


def meta_source(fields: Mapping[str, str], suffix: str) -> tuple[str, float]:
    """Check that a MetaImage states its place; return what it is read from, and the unit in mm.

    Raises:
        ScanError: it does not, or it does twice and differently.
    """
    recipe = ITK_RECIPE.format(suffix)
    if "ElementSpacing" not in fields and "ElementSize" not in fields:
        raise ScanError(f"the MetaImage has no ElementSpacing: its voxel size is not stated. {recipe}")
    for names in SYNONYMS:
        given = {name: np.array(fields[name].split(), float) for name in names if name in fields}
        if len({tuple(values) for values in given.values()}) > 1:
            both = " and ".join(f"{name} = {fields[name][:60]}" for name in given)
            raise ScanError(f"the MetaImage states its place twice and differently: {both}. {recipe}")
    matrix = next((name for name in SYNONYMS[0] if name in fields), None)
    if matrix is None:
        raise ScanError(
            f"the MetaImage has no TransformMatrix: how the head lies in the voxels is not stated, or only by the "
            f"letters of AnatomicalOrientation, which programs read in opposite ways. {recipe}"
        )
    axes = round(len(fields[matrix].split()) ** 0.5)
    rows = np.array(fields[matrix].split(), float).reshape(axes, axes)[:3, :3]
    letters = fields.get("AnatomicalOrientation", "?")
    if axes >= 3 and "?" not in letters and np.isfinite(rows).all() and abs(np.linalg.det(rows)) > 1e-3:
        toward = "".join(map(str, nibabel.aff2axcodes(np.diag([-1, -1, 1, 1]) @ _homogeneous(rows.T))))
        if letters.upper() not in (toward, toward.translate(OPPOSITE)):
            raise ScanError(
                f"the MetaImage states its orientation twice and differently: by TransformMatrix, axes run {toward}; "
                f"AnatomicalOrientation is {letters}, which is neither that nor its opposite. {recipe}"
            )
    unit = fields.get("DistanceUnits", "")
    return f"MetaImage {matrix}", _factor([unit], "DistanceUnits")


def nrrd_source(fields: Mapping[str, str]) -> tuple[str, float]:
    """Check that a NRRD states its place; return what it is read from, and the unit in mm.

    Raises:
        ScanError: it does not.
    """
    recipe = ITK_RECIPE.format(".nrrd")
    space = ANATOMICAL.get(fields.get("space", "").lower())
    if space is None:
        given = f"space: {fields['space'][:40]} says nothing about the patient" if "space" in fields else "has no space"
        raise ScanError(
            f"how the head lies in the voxels is not stated: the NRRD {given}; expected "
            f"{', '.join(sorted(set(ANATOMICAL.values())))}. {recipe}"
        )
    if "space directions" not in fields:
        raise ScanError(f"the NRRD has no space directions: voxel size and axes are not stated. {recipe}")
    units = re.findall('"([^"]*)"', fields.get("space units", ""))
    return f"NRRD space {space}", _factor(units, "space units")


def check_directions(columns: NDArray[np.floating[Any]], what: str) -> None:
    """Refuse directions of axes that are not one long, since they state another voxel size than the spacing does.

    Args:
        columns: (3, n), a direction in each.
        what: where they stand, for the message.

    Raises:
        ScanError: one is not.
    """
    lengths = np.linalg.norm(columns, axis=0)
    if not (np.abs(lengths - 1) <= SAME_SIZE).all():
        raise ScanError(
            f"the voxel size is stated twice and differently: {what} has directions {lengths.round(3).tolist()} long, "
            "where 1 is expected beside the spacing. Convert it again from the source"
        )


def skew_remarks(affine: Affine) -> tuple[str, ...]:
    """Return a remark if the voxel axes are not at right angles, as after gantry tilt or an affine registration."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    degrees = float(np.degrees(np.arcsin(np.clip(np.abs(axes.T @ axes - np.eye(3)).max(), 0, 1))))
    if degrees <= SKEWED_DEGREES:
        return ()
    return (f"skewed axes: up to {degrees:.1f}° off right angles, as by gantry tilt; volumes take it into account",)


def _nifti_affine(header: Any, form: Form, unit: str, factor: float) -> Affine:
    """Return the sform or qform, in mm, whatever its code."""
    if form == "qform":
        sizes, qfac = header["pixdim"][1:4], float(header["pixdim"][0])
        if not (np.isfinite(sizes) & (sizes > 0)).all():
            raise ScanError(
                f"pixdim gives voxel sizes {sizes.tolist()}, which the qform needs; set sform or qform in the header, "
                "or, if the sform is right, trust: sform for its modality in cohort.modalities"
            )
        if qfac not in (-1, 0, 1):
            raise ScanError(
                f"pixdim[0] in the NIfTI header is {qfac:g}; the qform needs 1 or -1 there to tell left from right. "
                "Convert it again from the source"
            )
        header = header.copy()
        header["pixdim"][0] = qfac or 1
    affine = np.array(header.get_sform() if form == "sform" else header.get_qform(), dtype=np.float64)
    affine[:3] *= factor
    try:
        check_affine(affine)
    except ScanError as error:
        if factor == 1:
            raise
        raise ScanError(f"{error} (xyzt_units in the header says {unit}; is that right?)") from None
    return affine


def _check_sizes(header: Any, affines: Mapping[Form, Affine], factor: float) -> None:
    """Compare the voxel sizes of the sform with those of pixdim, which are the qform's, too."""
    if "sform" not in affines:
        return
    own, other = np.linalg.norm(affines["sform"][:3, :3], axis=0), np.abs(header["pixdim"][1:4]) * factor
    if not (np.abs(own - other) <= SAME_SIZE * own).all():
        remedy = "trust: sform or trust: qform" if "qform" in affines else "trust: sform, if that is right,"
        sizes = [times([f"{size:.4g}" for size in each]) for each in (own, other)]
        raise ScanError(
            f"the NIfTI header states the voxel size twice and differently: {sizes[0]} mm by the sform, {sizes[1]} mm "
            f"by pixdim{' and the qform' * ('qform' in affines)}. One is out of date: compare with the source and "
            f"correct the header, or set {remedy} for its modality in cohort.modalities"
        )


def _difference(affines: Mapping[Form, Affine], shape: Sequence[int]) -> str:
    """Describe how the two affines of a NIfTI differ; "" if they agree.

    Raises:
        ScanError: they differ in a way that no registration of a head explains.
    """
    sform, qform = affines["sform"], affines["qform"]
    corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape[:3]))], float).T
    if np.linalg.norm((sform - qform) @ corners, axis=0).max() <= SAME_PLACE_MM:
        return ""
    rotation = _rotation(sform) @ _rotation(qform).T
    degrees = float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))
    if np.linalg.det(rotation) < 0 or degrees > LARGEST_ALIGNMENT_DEGREES:
        axes = ["".join(map(str, nibabel.aff2axcodes(affine))) for affine in (sform, qform)]
        how = "mirrored" if np.linalg.det(rotation) < 0 else f"turned by {degrees:.0f}°"
        raise ScanError(
            f"the NIfTI header states the orientation twice and differently: voxel axes run {axes[0]} by the sform, "
            f"{axes[1]} by the qform ({how}). Compare with the source and correct the header, or set trust: sform or "
            "trust: qform for its modality in cohort.modalities"
        )
    shift_mm = float(np.linalg.norm((sform - qform) @ corners.mean(axis=1)))
    return f"differ by {degrees:.1f}° and {shift_mm:.0f} mm"


def _rotation(affine: Affine) -> Affine:
    """Return the orthogonal matrix nearest to the axes of an affine."""
    u, _, vt = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    return u @ vt


def _homogeneous(axes: Affine) -> Affine:
    """Return axes (3, 3) as an affine (4, 4)."""
    affine = np.eye(4)
    affine[:3, :3] = axes
    return affine


def _factor(units: Sequence[str], where: str) -> float:
    """Return the unit of length in mm.

    Raises:
        ScanError: it is unknown, or axes have different ones.
    """
    factors = {UNITS.get(unit.lower()) for unit in units} or {1.0}
    if len(factors) > 1 or None in factors:
        raise ScanError(f"the unit of length is unclear: {where} is {', '.join(units)[:60]}; expected mm, m, cm or um")
    return factors.pop() or 1.0
