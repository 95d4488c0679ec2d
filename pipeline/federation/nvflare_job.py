"""The folder of a job as NVFlare reads it, for a real deployment and for its simulator."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.federation.rounds import Job
from pipeline.store.base import write_json

CONTROLLER = "pipeline.federation.nvflare_parts.HyperMMController"
EXECUTOR = "pipeline.federation.nvflare_parts.HyperMMExecutor"
NAME = "hypermm"
TASKS = ["statistics", "extractor", "classifier", "finish"]


def write_job(
    folder: Path,
    job: Job,
    *,
    workspaces: Mapping[str, Path] | None = None,
    executors: Mapping[str, str] | None = None,
    server: str = CONTROLLER,
) -> None:
    """Write a job.

    Args:
        folder: to make.
        job: what all sites do alike.
        workspaces: site → its workspace, for the simulator, where all sites are on one machine; None: every site finds
            its own in its kit.
        executors: site → another class in place of the executor, for tests of faults.
        server: class of the controller.
    """
    text = json.dumps(job.to_json(), sort_keys=True)
    own_config = {"format_version": 2, "task_data_filters": [], "task_result_filters": [], "components": []}
    controller = {"id": "hypermm", "path": server, "args": {"job_json": text}}
    write_json(folder / "app_server" / "config" / "config_fed_server.json", own_config | {"workflows": [controller]})
    places: dict[str, dict[str, Any]] = {"app_server": {"sites": ["server"]}}
    own: Mapping[str, Path | None] = workspaces or {"": None}
    for site, workspace in own.items():
        app = f"app_{site}" if site else "app_client"
        path = (executors or {}).get(site, EXECUTOR)
        executor = {"path": path, "args": {"job_json": text, **({"workspace": str(workspace)} if workspace else {})}}
        client = {
            "format_version": 2, "task_data_filters": [], "task_result_filters": [], "components": [],
            "executors": [{"tasks": TASKS, "executor": executor}],
        }  # fmt: skip
        write_json(folder / app / "config" / "config_fed_client.json", client)
        places[app] = {"sites": [site] if site else ["@ALL"]}
    if not workspaces:  # one app for all: server and sites share a folder
        client_config = folder / "app_client" / "config" / "config_fed_client.json"
        client_config.replace(folder / "app_server" / "config" / client_config.name)
        client_config.parent.rmdir()
        client_config.parent.parent.rmdir()
        (folder / "app_server").replace(folder / "app")
        places = {"app": {"sites": ["@ALL"]}}
    meta = {
        "name": NAME, "resource_spec": {}, "min_clients": job.rounds.fewest_sites, "mandatory_clients": [],
        "deploy_map": {app: each["sites"] for app, each in places.items()},
    }  # fmt: skip
    write_json(folder / "meta.json", meta)
