"""Floating-point precision of networks on a device."""

from typing import Literal

import torch

Precision = Literal["auto", "fp32"]


def half_precision(device: torch.device) -> torch.dtype:
    """Return the half precision that `device` computes faster than single, or float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    return torch.float32


def float_type(device: torch.device, precision: Precision) -> torch.dtype:
    """Return the type that a frozen network computes with on `device`.

    For this process, it also lets or forbids NVIDIA's TF32 in convolutions: it keeps 10 of float32's 23 bits, and torch
    uses it unless told otherwise.

    Args:
        device: where it runs.
        precision: "auto" is half precision where that is faster; "fp32" is float32, with all of its bits.
    """
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    return half_precision(device) if precision == "auto" else torch.float32


def few_multiplications_win(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether Winograd's convolutions are faster on `device` than oneDNN's: float32 on a CPU that ends at AVX2.

    Measured in docs/benchmarks.md; float32 with AVX-512 was not.
    """
    avx2 = torch.backends.cpu.get_cpu_capability() == "AVX2" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return device.type == "cpu" and dtype == torch.float32 and avx2
