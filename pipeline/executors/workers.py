"""Interface of the sources of Dask workers."""

from contextlib import ExitStack
from typing import Protocol

from distributed import Client
from distributed.deploy.spec import SpecCluster

KEPT = "What is finished is kept; run the same command again"
STOP_WITHIN_S = 30


class Workers(Protocol):
    """Source of Dask workers."""

    @property
    def elsewhere(self) -> bool:
        """Whether the workers are on other machines."""

    @property
    def device(self) -> str:
        """Device name for a worker.

        Raises:
            InputError: there are more workers than GPUs.
        """

    @property
    def memory(self) -> str:
        """Memory limit of a worker, as text."""

    @property
    def advice(self) -> str:
        """Advice, as a sentence, for the case that no worker is connected."""

    def start(self, stack: ExitStack) -> tuple[Client, SpecCluster | None]:
        """Start workers where necessary and connect to their scheduler.

        Args:
            stack: receives the clean-up callbacks.

        Returns:
            A client, and the cluster if this run starts its workers and replaces them when they end.

        Raises:
            InputError: the scheduler does not answer, Slurm is not available, or there are more workers than GPUs.
        """


def client_of(cluster: SpecCluster, stack: ExitStack) -> tuple[Client, SpecCluster]:
    """Return a client of a cluster that this run has started, and the cluster; the stack closes both."""
    stack.callback(cluster.close, timeout=STOP_WITHIN_S)
    return stack.enter_context(Client(cluster, set_as_default=False)), cluster
