"""Which process of how many this is, as a launcher says in the environment. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stpipe.config.errors import ConfigError

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
ADDRESS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")
#: What `srun` sets in the processes of a step. A batch script has the variables of the job, but none of a step.
SLURM_VARIABLES = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID", "SLURM_STEP_ID")
#: Ports of jobs that name none; outside of those that Linux gives to clients, which start at 32768.
FIRST_PORT, PORTS = 20000, 10000


@dataclass(frozen=True, slots=True)
class World:
    """rank: of this process among `size`; local_rank: among those of its machine; address, port: where rank 0 is met."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int

    def variables(self) -> dict[str, str]:
        """The same as environment variables, as torchrun sets them."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def find_world(environment: Mapping[str, str]) -> World | None:
    """The world that torchrun, accelerate launch or srun made; None when no launcher started this process.

    Raises:
        ConfigError: some of the variables are set and others are not, or they contradict each other: such a process would
            train alone, or wait for others that never come.
    """
    if any(name in environment for name in RANK_VARIABLES):
        return _from_variables(environment, (*RANK_VARIABLES, *ADDRESS_VARIABLES))
    if environment.get("SLURM_STEP_ID", "").isdigit() and _number(environment, "SLURM_STEP_NUM_TASKS") > 1:
        return _from_slurm(environment)
    return None


def _from_variables(environment: Mapping[str, str], names: tuple[str, ...]) -> World:
    _refuse_missing(environment, names)
    return _checked(
        World(
            _number(environment, "RANK"),
            _number(environment, "WORLD_SIZE"),
            _number(environment, "LOCAL_RANK"),
            environment["MASTER_ADDR"],
            _number(environment, "MASTER_PORT"),
        ),
        "RANK, WORLD_SIZE, LOCAL_RANK",
    )


def _from_slurm(environment: Mapping[str, str]) -> World:
    _refuse_missing(environment, SLURM_VARIABLES)
    # Two steps of a job may run at the same time, hence both numbers.
    number = _number(environment, "SLURM_JOB_ID") * 7 + _number(environment, "SLURM_STEP_ID")
    return _checked(
        World(
            _number(environment, "SLURM_PROCID"),
            _number(environment, "SLURM_STEP_NUM_TASKS"),
            _number(environment, "SLURM_LOCALID"),
            environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"]),
            _number(environment, "MASTER_PORT") if environment.get("MASTER_PORT") else FIRST_PORT + number % PORTS,
        ),
        "SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID",
    )


def first_host(nodes: str) -> str:
    """First host of a list as SLURM writes it: `n1,n2` and `n[01-04,7]` both begin with a host of their own."""
    head = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes.strip())
    assert head is not None  # the pattern matches the empty text
    return "".join(part or "" for part in head.groups())


def _refuse_missing(environment: Mapping[str, str], names: tuple[str, ...]) -> None:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        there = [f"{name}={environment[name]}" for name in names if environment.get(name)]
        raise ConfigError(
            f"the environment says {', '.join(there) or 'nothing'}, but not {', '.join(missing)}: a half-set environment would make every process "
            f"train alone, or wait for ever. Start with torchrun, accelerate launch or srun, which set all of them, or unset "
            f"{', '.join(name for name in names if name in environment)} and use backend.num_processes"
        )


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    if not text.strip().isdigit():
        raise ConfigError(f"the environment variable {name} is '{text}', but must be a whole number from 0")
    return int(text)


def _checked(world: World, names: str) -> World:
    if not (world.rank < world.size and world.local_rank <= world.rank):
        raise ConfigError(
            f"the environment contradicts itself: rank {world.rank} of {world.size} processes, local rank {world.local_rank} ({names}). "
            "Ranks count from 0 and are below the number of processes"
        )
    if not world.port:
        raise ConfigError(
            "MASTER_PORT is 0: the processes would look for each other at different places. Give a port, or torchrun --standalone"
        )
    return world
