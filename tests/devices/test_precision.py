"""Which floating-point type a network computes with."""

import pytest
import torch

from devices.precision import float_type, half_precision

CPU = torch.device("cpu")


def test_fp32_is_float32_with_all_of_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert float_type(CPU, "fp32") is torch.float32
    assert not torch.backends.cudnn.allow_tf32
    assert float_type(CPU, "auto") is half_precision(CPU)
    assert torch.backends.cudnn.allow_tf32
