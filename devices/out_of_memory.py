"""Fallbacks when a device runs out of memory: smaller batches, then another device, with a line in the log."""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

log = logging.getLogger("hypermm")
Result = TypeVar("Result")
Module = TypeVar("Module", bound=nn.Module)
# Messages of CUDA, its libraries and Apple's MPS where torch raises no error class of its own.
# The last one is cuDNN's, when no algorithm has room for its workspace.
MESSAGES = (
    "out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
)  # fmt: skip
LONGEST_REASON = 160  # characters of the device's own message that the log shows


@dataclass(frozen=True)
class Fallback(Generic[Result]):
    """An attempt to compute a result on some device.

    Attributes:
        label: describes it in the log, such as "32 slices a pass on cuda".
        compute: computes the result.
    """

    label: str
    compute: Callable[[], Result]


def is_out_of_memory(error: BaseException) -> bool:
    """Check if a GPU ran out of memory; a full main memory does not count, since it has no fallback."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


def run_with_oom_fallback(what: str, attempts: Sequence[Fallback[Result]]) -> Result:
    """Return the result of the first attempt that fits into memory.

    Every call starts with the first attempt, since another process may have filled the memory and ended since.

    Args:
        what: what is computed, for the log.
        attempts: the best first; at least one.

    Raises:
        RuntimeError: the last attempt ran out of memory too, or an attempt failed for another reason.
    """
    for attempt, following in zip(attempts, attempts[1:], strict=False):
        try:
            return attempt.compute()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:LONGEST_REASON]
        # outside of `except`, the error and the frames that held the tensors are freed
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        log.warning("%s: out of memory with %s; this scan goes on with %s (%s)", what, attempt.label, following.label,
                    reason)  # fmt: skip
    return attempts[-1].compute()


def copy_on_cpu(module: Module) -> Module:
    """Copy a module to main memory as float32, without using memory of its device; the module stays unchanged."""
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        on_cpu = parameter.detach().to("cpu", copy=True)
        memo[id(parameter)] = nn.Parameter(on_cpu, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach().to("cpu", copy=True)
    return copy.deepcopy(module, memo).float()
