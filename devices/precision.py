"""Fast floating-point precision of a device."""

import torch


def half_precision(device: torch.device) -> torch.dtype:
    """Return the half precision that `device` computes faster than single, or float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    return torch.float32
