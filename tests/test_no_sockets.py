"""Nothing phones home: a whole run, with tracking on, opens no socket but those of one machine with itself."""

import contextlib
import importlib.util
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3.util.connection  # noqa: F401 - asks this machine for IPv6 by binding ::1 when it is first imported

from pipeline.cli.main import main

pytestmark = pytest.mark.usefixtures("thin_backbone")

NETWORK_EVENTS = {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}


class Guard:
    """Hears of every socket that Python code opens, however it came by the class; refuses and remembers while armed."""

    def __init__(self) -> None:
        self.armed, self.heard = False, []
        sys.addaudithook(self)  # stays for the life of the process, hence `armed`

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "socket.__new__" and arguments[1] in (socket.AF_UNIX, -1):  # -1: of a file descriptor
            return
        if event in ("socket.connect", "socket.bind") and arguments[0].family == socket.AF_UNIX:
            return
        if event == "socket.__new__" or event in NETWORK_EVENTS:
            self.heard.append(f"{event} {arguments[1:]}")
            raise PermissionError(f"no network here: {event} {arguments[1:]}")


GUARD = Guard()


@pytest.fixture
def no_sockets() -> Iterator[Guard]:
    GUARD.heard.clear()
    GUARD.armed = True
    yield GUARD
    GUARD.armed = False


def test_the_guard_hears_and_refuses(no_sockets: Guard) -> None:
    with pytest.raises(PermissionError, match="no network here: socket.__new__"):
        socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with pytest.raises(PermissionError, match=r"socket.getaddrinfo \(.*443"):
        socket.getaddrinfo("localhost", 443)
    with pytest.raises((OSError, PermissionError), match="no network here"):
        urllib.request.urlopen("http://127.0.0.1:9/", timeout=1)
    assert len(no_sockets.heard) == 3
    with contextlib.closing(socket.socket(socket.AF_UNIX)):
        pass  # of use between processes of one machine
    assert len(no_sockets.heard) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("default:::mlflow.store.tracking.sqlalchemy_store")  # where MLflow is installed
def test_a_whole_run_opens_no_socket(
    tmp_path: Path, picture_cohort: Callable[..., Path], no_sockets: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)  # of this machine; the pipeline is to see to it
    words = ["--config", str(picture_cohort(tmp_path / "data")), "--workspace", str(tmp_path / "run"), "--quiet"]
    if importlib.util.find_spec("mlflow"):
        words += ["--tracking.mlflow", "mlflow"]
    assert main(words) == 0
    assert no_sockets.heard == []
    assert "not a medical device" in (tmp_path / "run" / "report" / "report.html").read_text("utf-8")
    assert len(list((tmp_path / "run" / "tensorboard").rglob("events.out.tfevents.hypermm"))) == 3
    assert (tmp_path / "run" / "mlflow" / "mlflow.db").exists() == ("--tracking.mlflow" in words)
