"""Dask's scheduler and worker without their web servers.

The web servers open a port without TLS even without a dashboard, and show stages, folders and stack traces of workers
to anyone.
"""

from typing import Any

import distributed


class Scheduler(distributed.Scheduler):
    """Dask scheduler without a web server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Do nothing."""


class Worker(distributed.Worker):
    """Dask worker without a web server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Do nothing."""
