"""One thread for torch, NumPy and SciPy, and as many as before afterwards."""

import torch
from threadpoolctl import threadpool_info

from devices.threads import one_thread


def threads() -> list[int]:
    """Threads of torch and of every library that has some of its own."""
    return [torch.get_num_threads(), *(library["num_threads"] for library in threadpool_info())]


def test_everything_computes_with_one_thread_while_the_block_runs() -> None:
    outside = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        before = threads()
        assert len(before) > 1
        assert max(before) > 1
        with one_thread():
            assert set(threads()) == {1}
        assert threads() == before
    finally:
        torch.set_num_threads(outside)
