"""Dask workers as a connection sees them, whoever starts them."""

from contextlib import ExitStack
from typing import Protocol

from distributed import Client
from distributed.deploy.spec import SpecCluster

KEPT = "What is finished is kept; run the same command again"
STOP_WITHIN_S = 30


class Workers(Protocol):
    """Where workers come from."""

    @property
    def elsewhere(self) -> bool:
        """Whether they are on other machines."""

    @property
    def device(self) -> str:
        """What --device means to a worker.

        Raises:
            InputError: there are more workers than GPUs.
        """

    @property
    def memory(self) -> str:
        """The memory limit of a worker, in words."""

    @property
    def advice(self) -> str:
        """What to look at or to do when there is not one worker, as a sentence."""

    def start(self, stack: ExitStack) -> tuple[Client, SpecCluster | None]:
        """Start what has to be started and connect to it.

        Args:
            stack: is given what undoes it, in order.

        Returns:
            A client, and the cluster if its workers are started by this run and replaced when they end.

        Raises:
            InputError: the scheduler does not answer, Slurm is not here, or there are more workers than GPUs.
        """


def client_of(cluster: SpecCluster, stack: ExitStack) -> tuple[Client, SpecCluster]:
    """Return a client of a cluster that this run has started, and the cluster; the stack closes both."""
    stack.callback(cluster.close, timeout=STOP_WITHIN_S)
    return stack.enter_context(Client(cluster, set_as_default=False)), cluster
