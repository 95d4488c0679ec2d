"""Settings of the executor of per-scan work (section `executor`). They do not change results."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.executors.registry import EXECUTORS

TOKEN = r"^[A-Za-z0-9_.,:@%+=/-]+$"  # one token of a job script: no space, no end of line
MEMORY = r"^\d+(\.\d+)? ?([kMGT]i?)?B$"
if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[tuple(EXECUTORS)]


class SlurmConfig(BaseModel):
    """Resources that each worker's job requests from Slurm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str | None = Field(default=None, pattern=TOKEN, description="of Slurm; null: the standard one")
    account: str | None = Field(default=None, pattern=TOKEN, description="who is charged; null: nobody is named")
    time: str = Field(default="12:00:00", pattern=r"^[\d:-]+$", description="longest time of a job, [days-]hours:min:s")
    cores: int = Field(default=4, ge=1, description="of a worker")
    gpus: int = Field(default=0, ge=0, le=1, description="of a worker: 0 or 1")
    lines: tuple[Annotated[str, Field(pattern=r"^-[^\n\r]*$")], ...] = Field(
        default=(), description='more options of sbatch, such as ["--constraint=a100"]'
    )
    interface: str | None = Field(
        default=None, pattern=TOKEN, description="network interface through which jobs reach this machine, such as ib0"
    )


class ExecutorConfig(BaseModel):
    """Executor of the per-scan work; results do not depend on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field(
        default="local", description="this process; Dask workers; Dask workers in Slurm jobs (--executor sets it)"
    )
    workers: int | None = Field(
        default=None, ge=1, description="how many; null: one per GPU, else one per four cores; Slurm: 4 (--workers)"
    )
    worker_memory: str | None = Field(
        default=None,
        pattern=MEMORY,
        description="of one worker, beyond which it is stopped, such as 8GB; null: an equal share; Slurm: 16GB",
    )
    scheduler: str | None = Field(
        default=None,
        pattern=r"^(tcp|tls)://[^ ]+:\d+$",
        description="of Dask workers that someone else started, such as tcp://10.0.0.5:8786 (--scheduler)",
    )
    patience_minutes: float = Field(
        default=60.0, gt=0, description="without scheduler or without a single worker, before the run ends"
    )
    slurm: SlurmConfig = SlurmConfig()

    @field_validator("scheduler", mode="before")
    @classmethod
    def _full_address(cls, address: object) -> object:
        if isinstance(address, str) and "://" not in address:
            raise ValueError("an address begins with tcp:// or tls:// and ends with a port, as tcp://10.0.0.5:8786")
        return address

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        for name in sorted({name for entry in EXECUTORS.values() for name in entry.settings}):
            kinds = [kind for kind, entry in EXECUTORS.items() if name in entry.settings]
            if getattr(self, name) is not None and self.kind not in kinds:
                raise ValueError(
                    f"executor.{name} goes with executor.kind {' or '.join(kinds)} (--executor {kinds[0]})"
                )
        if self.scheduler is not None and (self.workers or self.worker_memory):
            raise ValueError("the workers of executor.scheduler are started elsewhere; leave out workers and memory")
        return self
