"""[execution.slurm]: what each job asks Slurm for.

The keys below have a meaning of their own; every other option of `sbatch` may be given by its long
name, with `_` or `-`. Whether a value is right is for the cluster to say.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from flops_fit.units import parse_number

SBATCH_OPTIONS = frozenset(
    [
        "bb",
        "bbf",
        "begin",
        "cluster_constraint",
        "clusters",
        "comment",
        "constraint",
        "contiguous",
        "core_spec",
        "cores_per_socket",
        "cpu_freq",
        "cpus_per_gpu",
        "deadline",
        "delay_boot",
        "dependency",
        "distribution",
        "exclude",
        "exclusive",
        "export",
        "export_file",
        "extra_node_info",
        "get_user_env",
        "gid",
        "gpu_bind",
        "gpu_freq",
        "gpus_per_node",
        "gpus_per_socket",
        "gpus_per_task",
        "gres",
        "gres_flags",
        "hint",
        "hold",
        "ignore_pbs",
        "kill_on_invalid_dep",
        "licenses",
        "mail_type",
        "mail_user",
        "mcs_label",
        "mem_bind",
        "mem_per_cpu",
        "mem_per_gpu",
        "mincpus",
        "network",
        "nice",
        "no_kill",
        "nodefile",
        "nodelist",
        "ntasks_per_core",
        "ntasks_per_gpu",
        "ntasks_per_socket",
        "oom_kill_step",
        "overcommit",
        "oversubscribe",
        "power",
        "prefer",
        "priority",
        "profile",
        "propagate",
        "reboot",
        "reservation",
        "resv_ports",
        "sockets_per_node",
        "spread_job",
        "switches",
        "thread_spec",
        "threads_per_core",
        "time_min",
        "tmp",
        "tres_bind",
        "tres_per_task",
        "uid",
        "use_min_nodes",
        "wait_all_nodes",
        "wckey",
        "x11",
    ]
)
"""Long options of `sbatch`, without those that flops-fit sets itself (array, output, ...)."""

_OURS = frozenset(
    [
        "array",
        "chdir",
        "error",
        "job_name",
        "input",
        "nodes",
        "ntasks",
        "ntasks_per_node",
        "no_requeue",
        "open_mode",
        "output",
        "parsable",
        "requeue",
        "signal",
        "test_only",
        "wait",
        "wrap",
        "cpus_per_task",
    ]
)
Options = dict[str, str | int | float | bool]


class SlurmSection(BaseModel):
    """[execution.slurm]: partition, limits and any other option of sbatch.

    Attributes:
        partition, account, qos, constraint: as for sbatch.
        gpus: GPUs of each job; `devices_per_trial` where `device = "cuda"` and none is stated.
        cpus: CPU cores of each job; threads times devices if None.
        mem: memory of each job, such as "16G"; from the estimate if None.
        time: minutes that a job may take; from the estimate if None.
        setup: lines of shell that run before each job, such as `module load cuda`.
        flops_per_second: FLOP/s that one trial achieves on the cluster, for forecasts of time.
        poll_seconds: between two questions to Slurm.
        more: other options of sbatch, by their long names.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: Annotated[int, Field(gt=0)] | str | None = None
    cpus: Annotated[int, Field(gt=0)] | None = None
    mem: str | None = None
    time: Annotated[int, Field(gt=0)] | None = None
    setup: list[str] = Field(default_factory=list)
    flops_per_second: Annotated[float, BeforeValidator(parse_number), Field(gt=0)] | None = None
    poll_seconds: Annotated[float, Field(gt=0)] = 15.0
    more: Options = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_others(cls, data: Any) -> Any:
        """Gather the options of sbatch that have no field; refuse a name that sbatch lacks."""
        if not isinstance(data, dict):
            return data
        known, more = {}, dict(data.get("more", {}))
        for key, value in data.items():
            name = key.replace("-", "_")
            if name in cls.model_fields:
                known[name] = value
            elif name in SBATCH_OPTIONS:
                more[name] = value
            else:
                raise ValueError(_unknown(key, name, [*cls.model_fields, *SBATCH_OPTIONS]))
        return {**known, "more": more}

    @property
    def options(self) -> dict[str, Any]:
        """The stated options, flat, for the executor."""
        stated = self.model_dump(mode="json", exclude_defaults=True, exclude={"more"})
        return {**stated, **self.more}


def _unknown(key: str, name: str, known: list[str]) -> str:
    """Return the mistake of an option that cannot be given."""
    if name in _OURS:
        return f"`{key}` is set by flops-fit itself: leave it out"
    near = difflib.get_close_matches(name, [each for each in known if each != "more"], n=1)
    said = f"; did you mean `{near[0]}`?" if near else ""
    return f"sbatch has no option `{key}`{said}"
