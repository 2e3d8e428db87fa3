"""Which process this is: launchers tell in full, or stpipe refuses."""

from __future__ import annotations

import pytest

from stpipe.config.errors import ConfigError
from stpipe.core.world import World, find_world, first_host

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "29400"}
SRUN = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "n[1-2]",
}


def test_no_launcher() -> None:
    assert find_world({}) is None
    assert find_world({"MASTER_ADDR": "n1", "OMP_NUM_THREADS": "1"}) is None


def test_torchrun_and_back() -> None:
    assert find_world(TORCHRUN) == World(3, 4, 1, "n1", 29400)
    assert World(3, 4, 1, "n1", 29400).variables() == TORCHRUN


def test_srun() -> None:
    world = find_world(SRUN)
    assert world is not None
    assert (world.rank, world.size, world.local_rank, world.address) == (3, 4, 1, "n1")
    assert 20000 <= world.port < 30000
    other = find_world({**SRUN, "SLURM_STEP_ID": "1"})
    assert other is not None
    assert other.port != world.port


def test_srun_may_be_told_the_address() -> None:
    world = find_world({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"})
    assert world is not None
    assert (world.address, world.port) == ("10.0.0.1", 1234)


def test_a_batch_script_is_one_process() -> None:
    """It has the variables of the job, those of the step only under srun."""
    assert find_world({k: v for k, v in SRUN.items() if "STEP" not in k} | {"SLURM_NTASKS": "4"}) is None
    assert find_world({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}) is None


@pytest.mark.parametrize("left_out", list(TORCHRUN))
def test_half_set_variables_are_refused_by_name(left_out: str) -> None:
    half = {k: v for k, v in TORCHRUN.items() if k != left_out}
    with pytest.raises(ConfigError, match=rf"not {left_out}: a half-set") as found:
        find_world(half)
    assert found.value.exit_code == 2
    assert "WORLD_SIZE" in str(found.value) and "torchrun" in str(found.value)


@pytest.mark.parametrize("change", [{"RANK": "4"}, {"LOCAL_RANK": "4"}, {"WORLD_SIZE": "two"}, {"RANK": "-1"}, {"MASTER_PORT": "0"}])
def test_contradictions_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="contradicts|whole number|MASTER_PORT is 0"):
        find_world({**TORCHRUN, **change})


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[01-04,7]", "n01"), ("gpu-[3,5]-a,b2", "gpu-3-a"), ("a-b[12]", "a-b12")],
)
def test_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host
