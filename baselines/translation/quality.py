"""Similarity of an imputed scan and the real one, inside the brain."""

import math

import numpy as np
from skimage.metrics import structural_similarity
from torch import Tensor

WINDOW = 11  # voxels, of the Gaussian with a standard deviation of 1.5


def ssim_psnr(imputed: Tensor, real: Tensor, *, mask: Tensor) -> dict[str, float]:
    """Compute structural similarity and peak signal-to-noise ratio, both over the voxels in the mask and no others.

    Outside the brain both scans are 0, and counting that would make any imputation look good; so MONAI's metrics,
    which average over the whole volume, do not fit. SSIM is scikit-image's map in three dimensions, with the Gaussian
    window and population variances of the paper; values at the mask's edge see some background.

    Args:
        imputed: (X, Y, Z), float32 in [0, 1].
        real: the same shape.
        mask: the same shape, bool: the brain.

    Returns:
        ssim (in [-1, 1], 1 is identical), psnr (dB; infinite when identical), mae (mean absolute error).

    Raises:
        ValueError: shapes differ, a side is shorter than the window, or the mask is empty.

    Source:
        Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", equation 13.
    """
    if not (imputed.shape == real.shape == mask.shape) or imputed.ndim != 3:
        shapes = f"{tuple(imputed.shape)}, {tuple(real.shape)}, {tuple(mask.shape)}"
        raise ValueError(f"imputed, real and mask are {shapes}; expected three volumes (X, Y, Z) on one grid")
    if min(real.shape) < WINDOW:
        raise ValueError(f"volumes of {tuple(real.shape)}; SSIM needs at least {WINDOW} voxels along every axis")
    inside = mask.cpu().numpy().astype(bool)
    if not inside.any():
        raise ValueError("the brain mask is empty, so there is nothing to compare")
    one, other = (volume.detach().cpu().double().numpy() for volume in (imputed, real))
    _, similarity = structural_similarity(
        one, other, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    error = (one - other)[inside]
    mse = float(np.mean(error**2))
    return {
        "ssim": float(similarity[inside].mean()),
        "psnr": -10 * math.log10(mse) if mse > 0 else math.inf,
        "mae": float(np.abs(error).mean()),
    }
