"""Who else uses this machine or network cannot make Dask's processes do anything.

Each attack is made with the certificate of the run, too, to see that it would work.
"""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

from files.reading import file_sha256
from pipeline.cli.main import main
from pipeline.core.provenance import REPOSITORY
from pipeline.executors import certificate
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.connection import Connection
from pipeline.executors.dispatch import DispatchingExecutor
from pipeline.executors.opened import executor_of
from pipeline.executors.private_folder import FOLDER

SOON = 60  # seconds
SBATCH = """#!/bin/sh
cp "$1" "$SLURM_STAND_IN/$$.sh"
stat -c '%a %n' "$1" "$(dirname "$1")" >> "$SLURM_STAND_IN/rights"
umask 022
setsid bash "$SLURM_STAND_IN/$$.sh" > "$SLURM_STAND_IN/$$.log" 2>&1 &
echo $! >> "$SLURM_STAND_IN/jobs"
echo "Submitted batch job $!"
"""
SCANCEL = "#!/bin/sh\nkill -TERM -- -$1\n"

PLANTED = """
import importlib, sys
open({folder!r} + "/imported", "a").write(__name__)
sys.path = [folder for folder in sys.path if folder not in ("", {folder!r})]
del sys.modules[__name__]
importlib.import_module(__name__)
"""


@dataclass
class Running:
    """A run's Dask processes, at work."""

    connection: Connection
    workspace: Path
    slurm: Path  # where the stand-in for Slurm keeps what it was given
    started_in: Path  # a folder in which someone has put modules
    kind: str

    def processes(self) -> list[psutil.Process]:
        """This one, in which scheduler and nannies are, and those of the workers."""
        roots = [psutil.Process()]
        if self.kind == "slurm":
            roots += [psutil.Process(int(line)) for line in (self.slurm / "jobs").read_text().split()]
        return [process for root in roots for process in (root, *root.children(recursive=True))]

    def ports(self) -> list[int]:
        """All that they listen on."""
        sockets = [each for process in self.processes() for each in process.net_connections("inet")]
        return sorted({each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN})


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an sbatch that runs jobs at once, on this machine."""
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        patch.setenv("SLURM_STAND_IN", str(folder))
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture(scope="module", params=["dask", "slurm"])
def running(
    request: pytest.FixtureRequest, stand_in: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Two workers, with a umask as no one has by default."""
    workspace = tmp_path_factory.mktemp(request.param) / "it's two words"
    workspace.mkdir()
    config = ExecutorConfig(kind=request.param, workers=2, worker_memory="1GB", slurm={"interface": "lo"})
    executor = executor_of(config, workspace, device="cpu")
    assert isinstance(executor, DispatchingExecutor)
    connection = executor.connection
    started_in = tmp_path_factory.mktemp("started-in")
    for name in ("multiprocessing", "distributed"):
        (started_in / f"{name}.py").write_text(PLANTED.format(folder=str(started_in)))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    umask, folder = os.umask(0o027), Path.cwd()
    os.chdir(started_in)
    try:
        connection.client().wait_for_workers(2, timeout=SOON)
        yield Running(connection, workspace, stand_in, started_in, request.param)
    finally:
        os.umask(umask)
        os.chdir(folder)
        connection.close()
    assert list(workspace.iterdir()) == []


def stranger(certified: tuple[str, str] | None) -> ssl.SSLContext:
    """TLS of someone who trusts everybody, and shows a certificate if there is one."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certified is not None:
        certificate_file, key_file = certified
        context.load_cert_chain(certificate_file, key_file)
    return context


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How someone else may come: what Dask is told to connect with, and over which protocol."""
    folder = tmp_path_factory.mktemp("stranger")
    certificate.write_certificate(folder)
    own, key = certificate.certificate_files(folder)
    return {
        "no TLS": {"protocol": "tcp://"},
        "TLS without a certificate": {"protocol": "tls://", "ssl_context": stranger(None)},
        "another run's certificate": {"protocol": "tls://", "ssl_context": stranger((str(own), str(key)))},
    }


async def make_run(port: int, file: Path, *, protocol: str, **arguments: Any) -> None:
    """Have the process behind a port make a file, whichever of Dask's it is."""
    from distributed.comm import connect
    from distributed.protocol.pickle import dumps

    message = {"function": dumps(Path.touch), "args": dumps((file,)), "kwargs": dumps({}), "reply": True}
    for operation in ("run", "run_function"):  # of workers and nannies; of a scheduler
        comm = await connect(f"{protocol}127.0.0.1:{port}", timeout=1.5, **arguments)
        try:
            await comm.write({"op": operation, **message})
            await asyncio.wait_for(comm.read(), 5)
        finally:
            comm.abort()


def attacked(port: int, file: Path, **how: Any) -> bool:
    """Whether the attack made its file."""
    try:
        asyncio.run(make_run(port, file, **how))
    except (OSError, TimeoutError):
        pass
    return file.exists()


@pytest.mark.slow
def test_only_who_has_the_certificate_of_the_run_is_obeyed(
    running: Running, strangers: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    ours = running.connection.cluster.security.get_connection_args("client")
    ports = running.ports()
    assert len(ports) == 5  # a scheduler, two nannies, two workers: no web servers
    for port in ports:
        for name, how in strangers.items():
            assert not attacked(port, tmp_path / f"{port} {name}", **how), (port, name)
        assert attacked(port, tmp_path / f"{port}", protocol="tls://", **ours)
    assert len(running.connection.client().nthreads()) == 2  # and nobody minds


@pytest.mark.slow
def test_no_port_answers_a_browser(running: Running) -> None:
    for port in running.ports():
        with socket.create_connection(("127.0.0.1", port), timeout=SOON) as browser:
            browser.sendall(b"GET /info/main/workers.html HTTP/1.0\r\n\r\n")
            try:
                answer = browser.recv(100)
            except ConnectionResetError:
                answer = b""
        assert b"HTTP" not in answer


def module_folders() -> list[str]:
    return [folder for folder in sys.path if "dask-scratch" in folder]


def own_umask() -> int:
    os.umask(mask := os.umask(0o077))
    return mask


@pytest.mark.slow
def test_no_process_imports_from_a_folder_that_others_can_make(running: Running) -> None:
    """Dask puts its folder for temporary files first in sys.path, of the run, too."""
    client = running.connection.client()
    processes = [client.run(module_folders), client.run(module_folders, nanny=True)]
    imported_from = [*processes[0].values(), *processes[1].values(), module_folders()]
    assert len(imported_from) == 5
    private = running.workspace / FOLDER
    assert private.stat().st_mode & 0o777 == 0o700
    for folders in imported_from:
        assert folders
        assert all(Path(folder).is_relative_to(private) for folder in folders)


@pytest.mark.slow
def test_no_process_imports_from_the_folder_that_the_run_was_started_in(running: Running) -> None:
    assert not (running.started_in / "imported").exists()


@pytest.mark.slow
def test_workers_have_the_umask_of_the_run(running: Running) -> None:
    assert set(running.connection.client().run(own_umask).values()) == {0o027}


@pytest.mark.slow
def test_the_key_is_where_nobody_else_can_read_it(running: Running) -> None:
    """Other users can read command lines and, unless rights say otherwise, files."""
    secrets = running.connection.cluster.security.get_tls_config_for_role("worker")
    key = secrets["key"] if "\n" in secrets["key"] else Path(secrets["key"]).read_text()
    line = key.splitlines()[1]
    for process in running.processes():
        assert line not in " ".join(process.cmdline())
    files = [path for path in (*running.workspace.rglob("*"), *running.slurm.iterdir()) if path.is_file()]
    holding = [path for path in files if line in path.read_text("utf-8", errors="replace")]
    if running.kind == "dask":
        assert holding == []
        return
    private = running.workspace / FOLDER
    assert holding == [private / "key.pem"]
    assert {path.stat().st_mode & 0o777 for path in certificate.certificate_files(private)} == {0o600}
    rights = [line.split(" ", 1) for line in (running.slurm / "rights").read_text().splitlines()]
    assert len(rights) == 4
    for script, folder in zip(rights[::2], rights[1::2], strict=True):
        assert script[0] == "600"
        assert folder == ["700", str(private)]
        assert not Path(script[1]).exists()  # Slurm has its copy


def shaken(server: ssl.SSLContext, client: ssl.SSLContext) -> bool:
    """Whether both agree to talk."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [server.wrap_bio(to_server, to_client, server_side=True), client.wrap_bio(to_client, to_server)]
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return True


@pytest.mark.parametrize("role", ["client", "scheduler", "worker"])
def test_both_sides_show_the_certificate_of_the_run(role: str) -> None:
    ours, others = (certificate.security_of(*certificate.new_certificate()) for _ in range(2))

    def meet(server: Any, client: Any) -> bool:
        listening, calling = server.get_listen_args(role), client.get_connection_args(role)
        assert listening["require_encryption"]
        assert calling["require_encryption"]
        return shaken(listening["ssl_context"], calling["ssl_context"])

    assert meet(ours, ours)
    assert not meet(ours, others)
    assert not meet(others, ours)  # someone who took the port of a scheduler that has died


def test_a_certificate_is_new_each_time_and_needs_no_clock_that_is_right() -> None:
    from cryptography import x509

    first, second = (certificate.new_certificate() for _ in range(2))
    assert first[1] != second[1]
    made = [x509.load_pem_x509_certificate(pem.encode()) for pem, _ in (first, second)]
    assert made[0].public_key() != made[1].public_key()
    lasts = made[0].not_valid_after_utc - made[0].not_valid_before_utc
    assert lasts == certificate.VALID + certificate.CLOCKS_DIFFER


def test_your_dask_settings_do_not_weaken_it() -> None:
    import dask

    tls = "distributed.comm.tls."
    theirs = {"distributed.comm.require-encryption": False, f"{tls}ciphers": "NULL", f"{tls}ca-file": "/none"}
    with dask.config.set(theirs):
        security = certificate.security_of(*certificate.new_certificate())
        assert security.require_encryption
        assert security.tls_ciphers is None
        assert "BEGIN CERTIFICATE" in security.tls_ca_file


@pytest.mark.slow
def test_a_run_through_slurm_ends_as_one_in_this_process_and_leaves_no_key(
    picture_cohort: Callable[..., Path], stand_in: Path, tmp_path: Path
) -> None:
    config = picture_cohort(tmp_path / "data", subjects=6)
    run, local = tmp_path / "two words", tmp_path / "local"
    argv = ["--config", str(config), "--stages", "preprocess", "--device", "cpu", "--quiet", "--workspace"]
    assert main([*argv, str(local)]) == 0
    slurm = ["--executor", "slurm", "--workers", "1", "--worker-memory", "1GB", "--executor.slurm.interface", "lo"]
    (tmp_path / "slurm").mkdir()
    environment = {**os.environ, "SLURM_STAND_IN": str(tmp_path / "slurm"), "PYTHONSAFEPATH": ""}
    given = [sys.executable, "run_pipeline.py", *argv, str(run), *slurm]
    done = subprocess.run(given, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = [{path.parent.name: file_sha256(path) for path in (w / "preprocess").glob("*/*.png")} for w in (run, local)]
    assert len(made[0]) > 6
    assert made[0] == made[1]
    assert not (run / FOLDER).exists()
    assert "PRIVATE KEY" not in "".join(path.read_text() for path in (run / "logs").iterdir())
