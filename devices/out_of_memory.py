"""When a device has no memory left: less at once, then elsewhere, and a line in the log. Never a dead night."""

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
# How CUDA, its libraries and Apple's MPS say it where torch raises no error class of its own.
WORDS = ("out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
LONGEST_REASON = 160  # characters of the device's own message that the log shows


@dataclass(frozen=True)
class Fallback(Generic[Result]):
    """One way of computing something.

    Attributes:
        words: what it is, such as "32 slices a pass on cuda"; for the log.
        compute: does it.
    """

    words: str
    compute: Callable[[], Result]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU refused memory; a full main memory is something else, since there is nowhere to go from there."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)


def run_with_oom_fallback(what: str, attempts: Sequence[Fallback[Result]]) -> Result:
    """The result of the first attempt for which there is memory.

    Nothing is remembered: whoever asks next starts with the first attempt again, since what filled the memory may be
    another process that is gone by then.

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
        # out here the error is gone, and with it the frames that held the tensors
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        log.warning("%s: out of memory with %s; this scan goes on with %s (%s)", what, attempt.words, following.words,
                    reason)  # fmt: skip
    return attempts[-1].compute()


def copy_on_cpu(module: Module) -> Module:
    """A float32 copy in main memory that takes no memory of the module's own device, which stays as it is."""
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        here = parameter.detach().to("cpu", copy=True)
        memo[id(parameter)] = nn.Parameter(here, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach().to("cpu", copy=True)
    return copy.deepcopy(module, memo).float()
