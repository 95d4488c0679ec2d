"""Dask's scheduler and worker without their web servers.

Those open a port without TLS even where there is no dashboard, and tell everyone what is being done and where: stages,
folders, the lines of code at which workers are.
"""

from typing import Any

import distributed


class Scheduler(distributed.Scheduler):
    """Without a web server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Do nothing."""


class Worker(distributed.Worker):
    """Without a web server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Do nothing."""
