"""The ladder from a full GPU to the CPU, and the copy that takes no memory of the GPU."""

import logging

import pytest
import torch
from torch import nn

from devices.out_of_memory import Fallback, copy_on_cpu, is_out_of_memory, run_with_oom_fallback

pytestmark = pytest.mark.usefixtures("one_thread")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB")


@pytest.fixture(autouse=True)
def _log_reaches_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("hypermm"), "propagate", True)


def _fails(error: Exception) -> Fallback[str]:
    def compute() -> str:
        raise error

    return Fallback("the large way", compute)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FULL, True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (MemoryError("out of memory"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_the_first_that_fits_and_a_line_for_each_step(caplog: pytest.LogCaptureFixture) -> None:
    asked = []
    last = Fallback("the CPU", lambda: "done")
    never = Fallback("never", lambda: asked.append(1))
    assert run_with_oom_fallback("feature maps of p01", [_fails(FULL), _fails(FULL), last, never]) == "done"
    assert asked == []
    assert [r.levelname for r in caplog.records] == ["WARNING", "WARNING"]
    assert "feature maps of p01: out of memory with the large way; this scan goes on with the CPU" in caplog.messages[1]
    assert "Tried to allocate 20.00 MiB" in caplog.messages[1]
    caplog.clear()
    assert run_with_oom_fallback("x", [last, never]) == "done"
    assert caplog.messages == []


def test_other_errors_and_the_last_attempts_own_come_through() -> None:
    with pytest.raises(RuntimeError, match="illegal"):
        run_with_oom_fallback("x", [_fails(RuntimeError("illegal")), Fallback("the CPU", lambda: "done")])
    with pytest.raises(torch.OutOfMemoryError):
        run_with_oom_fallback("x", [_fails(FULL), _fails(FULL)])


def test_the_failed_attempt_has_let_its_tensors_go() -> None:
    """Otherwise the memory that was short stays taken while the smaller way is tried."""
    import weakref

    held = []

    def large() -> str:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        raise FULL.__class__("CUDA out of memory")

    assert run_with_oom_fallback("x", [Fallback("large", large), Fallback("small", lambda: str(held[0]()))]) == "None"


def test_copy_on_cpu() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    network.requires_grad_(False).eval()
    network[1].running_mean += 3
    picture = torch.randn(2, 3, 8, 8)
    copied = copy_on_cpu(network.double())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in copied.parameters())
    assert not copied.training
    torch.testing.assert_close(copied(picture), network.float()(picture), rtol=0, atol=0)
    originals = {t.data_ptr() for t in (*network.parameters(), *network.buffers())}
    assert not originals & {t.data_ptr() for t in (*copied.parameters(), *copied.buffers())}


def test_copy_takes_nothing_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain deepcopy would clone every tensor where it lies; here none is cloned at all."""
    network = nn.Conv2d(3, 4, 3)

    def refuse(self: torch.Tensor, memo: dict) -> None:
        raise AssertionError("a tensor was copied where it lies")

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", refuse)
    assert torch.equal(copy_on_cpu(network).weight, network.weight)
