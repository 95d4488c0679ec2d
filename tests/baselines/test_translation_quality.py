"""SSIM and PSNR inside the brain, against MONAI's."""

import math

import pytest
import torch
import torch.nn.functional as F
from monai.metrics import PSNRMetric, SSIMMetric
from torch import Tensor

from baselines.translation.quality import ssim_psnr


def _volumes() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    real = F.avg_pool3d(torch.rand(1, 22, 24, 20, generator=random), 3, 1, 1)[0]
    return (real + 0.1 * torch.randn(real.shape, generator=random)).clamp(0, 1), real


def test_quality_is_monais_where_the_mask_is_monais() -> None:
    """MONAI's SSIM covers windows that lie inside the volume as a whole: 5 voxels from every side."""
    imputed, real = _volumes()
    mask = torch.zeros(real.shape, dtype=torch.bool)
    mask[5:-5, 5:-5, 5:-5] = True
    found = ssim_psnr(imputed, real, mask=mask)
    ssim = SSIMMetric(spatial_dims=3, data_range=1.0, win_size=11, kernel_sigma=1.5)
    assert found["ssim"] == pytest.approx(float(ssim(imputed[None, None], real[None, None])), abs=1e-5)
    psnr = PSNRMetric(max_val=1.0)(imputed[mask][None, None], real[mask][None, None])
    assert found["psnr"] == pytest.approx(float(psnr), abs=1e-5)
    assert found["mae"] == pytest.approx(float((imputed - real)[mask].abs().mean()))


def test_quality_sees_the_brain_only_and_knows_a_perfect_scan() -> None:
    imputed, real = _volumes()
    mask = torch.zeros(real.shape, dtype=torch.bool)
    mask[:9] = True
    elsewhere = imputed.clone()
    elsewhere[15:] = 1  # further from the mask than half a window
    assert ssim_psnr(elsewhere, real, mask=mask) == ssim_psnr(imputed, real, mask=mask)
    perfect = ssim_psnr(real, real, mask=mask)
    assert (perfect["ssim"], perfect["psnr"], perfect["mae"]) == (pytest.approx(1), math.inf, 0)


def test_quality_errors() -> None:
    imputed, real = _volumes()
    mask = torch.ones(real.shape, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"imputed, real and mask are \(22, 24, 20\), \(21, 24, 20\), .*on one grid"):
        ssim_psnr(imputed, real[1:], mask=mask)
    with pytest.raises(ValueError, match="SSIM needs at least 11 voxels along every axis"):
        ssim_psnr(imputed[:10], real[:10], mask=mask[:10])
    with pytest.raises(ValueError, match="the brain mask is empty"):
        ssim_psnr(imputed, real, mask=~mask)
