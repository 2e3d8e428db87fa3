"""Jobs of SLURM: submission, the record of what was submitted, and what became of it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stpipe.config.errors import ConfigError
from stpipe.launch.slurm_script import Job, script
from stpipe.pipeline.status import read_status
from stpipe.reports.atomic import write_text

SCRIPT, RECORD = "job.sh", "job.json"
#: States in which a job may still run, or run again.
ACTIVE = frozenset(
    {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "RESIZING", "SIGNALING", "REQUEUED"}
    | {"REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
UNKNOWN = "UNKNOWN"
CANCELLED_CODE = 130
#: Seconds that one command of SLURM may take, and after which a job of which SLURM knows nothing counts as lost.
ANSWER, FORGOTTEN = 120, 60.0


@dataclass(frozen=True)
class JobState:
    """state: SLURM's word; exit_code, signal: of the batch script, once it ended; restarts: how often it was queued again."""

    state: str
    exit_code: int | None = None
    signal: int = 0
    restarts: int | None = None
    reason: str = ""

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def contract_code(self) -> int:
        """The exit code of stpipe's contract that this end stands for."""
        if self.state == "COMPLETED":
            return 0
        if self.state == "FAILED" and self.exit_code:
            return self.exit_code if self.exit_code < 128 else 1
        return CANCELLED_CODE if self.state == "CANCELLED" else 1


@dataclass(frozen=True)
class Record:
    """What was submitted: job_id of SLURM (of the whole array, for a sweep), the run directory and the log of each task."""

    job_id: str
    name: str
    script: str
    cwd: str
    submitted: float
    array: bool
    run_dirs: tuple[str, ...]
    logs: tuple[str, ...]

    @staticmethod
    def load(folder: Path) -> Record | None:
        """The record in a job's folder; None where there is none."""
        place = folder / RECORD
        if not place.is_file():
            return None
        found = json.loads(place.read_text(encoding="utf-8"))
        return Record(**{**found, "run_dirs": tuple(found["run_dirs"]), "logs": tuple(found["logs"])})

    def run_dir(self, task: int) -> Path:
        """Run directory of a task, absolute."""
        return Path(self.cwd) / self.run_dirs[task]


def submit(job: Job, run_dirs: Sequence[str]) -> Record:
    """Write the script and hand it to SLURM. The folder of the logs is there before the job can start.

    Raises:
        ConfigError: SLURM is not here or refuses the job, or an earlier job for the same run is still there.
    """
    refuse_second(job)
    job.folder.mkdir(parents=True, exist_ok=True)
    place = write_text(job.folder / SCRIPT, script(job))
    answer = call(["sbatch", "--parsable", str(place)])
    job_id = answer.strip().split(";")[0]  # with a cluster's name behind it where there are several
    logs = [
        str(job.folder / job.log.name.replace("%A", job_id).replace("%j", job_id).replace("%a", str(i))) for i in range(len(job.commands))
    ]
    record = Record(job_id, job.name, str(place), str(job.cwd), time.time(), job.array, tuple(run_dirs), tuple(logs))
    write_text(job.folder / RECORD, json.dumps(asdict(record), indent=1) + "\n")
    return record


def refuse_second(job: Job) -> None:
    """Two jobs must not write into one run directory."""
    earlier = Record.load(job.folder)
    if earlier is None:
        return
    active = [s for s in job_states(earlier.job_id, len(earlier.logs)) if s.active]
    if active:
        raise ConfigError(
            f"job {earlier.job_id} ({active[0].state}) is for the same run and may still write into {', '.join(earlier.run_dirs[:3])}. "
            f"Wait for it, end it with `scancel {earlier.job_id}`, or choose another run.name"
        )


def call(command: Sequence[str]) -> str:
    """What a command of SLURM prints.

    Raises:
        ConfigError: it is not here, or it failed; with its own message.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise ConfigError(
            f"`{command[0]}` is not on this machine's PATH: this is no login node of a SLURM cluster. `stpipe slurm script` prints the script"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"`{command[0]}` did not answer within {ANSWER} s: is SLURM up? `scontrol ping` tells") from error
    if done.returncode:
        raise ConfigError(f"`{' '.join(command)}` failed with exit code {done.returncode}: {' '.join(done.stderr.split())}")
    return done.stdout


def job_states(job_id: str, tasks: int) -> list[JobState]:
    """The state of each task of an array, or of the one job.

    The controller knows of jobs that wait, run or have just ended; of older ones the accounting does, where there is one.
    """
    found: dict[int, JobState] = {}
    for ask, read in (
        (["scontrol", "show", "job", "--oneliner", job_id], from_controller),
        (["sacct", "-n", "-X", "-P", "-j", job_id, "-o", "JobID,State,ExitCode"], from_accounting),
    ):
        if len(found) < tasks:
            try:
                answer = call(ask)
            except ConfigError:  # forgotten by the controller, or there is no accounting
                continue
            found = {**read(answer), **found}
    return [found.get(i, JobState(UNKNOWN)) for i in range(tasks)]


def from_controller(text: str) -> dict[int, JobState]:
    """Task -> state, of what `scontrol show job --oneliner` prints."""
    found: dict[int, JobState] = {}
    for line in text.splitlines():
        values = dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", line))
        if "JobState" in values:
            code, signal = (int(n) for n in values.get("ExitCode", "0:0").split(":"))
            reason = values.get("Reason", "").replace("None", "")
            state = JobState(values["JobState"], code, signal, int(values.get("Restarts", "0")), reason)
            found.update(dict.fromkeys(task_numbers(values.get("ArrayTaskId", "0")), state))
    return found


def from_accounting(text: str) -> dict[int, JobState]:
    """Task -> state, of what `sacct -n -X -P -o JobID,State,ExitCode` prints."""
    found: dict[int, JobState] = {}
    for line in text.splitlines():
        name, state, code = line.split("|")[:3]
        numbers = task_numbers(name.partition("_")[2].strip("[]") or "0")
        exit_code, signal = (int(n) for n in code.split(":"))
        found.update(dict.fromkeys(numbers, JobState(state.split()[0], exit_code, signal)))
    return found


def task_numbers(text: str) -> list[int]:
    """`0-2,5%2` -> 0, 1, 2, 5."""
    numbers: list[int] = []
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def wait(record: Record, *, every: float, say: Callable[[str], None]) -> list[int]:
    """Until all tasks have ended for good; the exit code of each.

    Args:
        record: of the job.
        every: seconds between two looks.
        say: gets a line for each change of state.
    """
    tasks = len(record.run_dirs)
    before: list[JobState] = [JobState("")] * tasks
    seen = time.monotonic()
    while True:
        states = job_states(record.job_id, tasks)
        for i, (old, new) in enumerate(zip(before, states, strict=True)):
            if old.state != new.state:
                say(f"job {task_name(record, i)} {new.state} {record.run_dirs[i]}")
        known = any(s.state != UNKNOWN for s in states)
        seen = time.monotonic() if known else seen
        if not any(s.active for s in states) and (all(s.state != UNKNOWN for s in states) or time.monotonic() - seen > FORGOTTEN):
            return [end_of(record, i, state) for i, state in enumerate(states)]
        before = states
        time.sleep(every)


def end_of(record: Record, task: int, state: JobState) -> int:
    """Exit code of a task; where SLURM has forgotten it, the one that the run left."""
    if state.state != UNKNOWN:
        return state.contract_code
    status = read_status(record.run_dir(task) / "status.json")
    code = None if status is None else status["exit_code"]
    return 1 if code is None else int(code)


def task_name(record: Record, task: int) -> str:
    """As SLURM writes it."""
    return f"{record.job_id}_{task}" if record.array else record.job_id


def describe(record: Record) -> list[dict[str, Any]]:
    """For each task: job, state of SLURM, run directory, the run's own state, step, last metric, log."""
    states = job_states(record.job_id, len(record.run_dirs))
    rows = []
    for i, state in enumerate(states):
        status = read_status(record.run_dir(i) / "status.json") or {}
        ended = not state.active and state.state != UNKNOWN
        rows.append(
            {
                "job": task_name(record, i),
                "name": record.name,
                "slurm": state.state,
                "exit_code": state.exit_code if ended else None,
                "restarts": state.restarts,
                "reason": state.reason if state.state == "PENDING" else "",
                "run": record.run_dirs[i],
                "state": status.get("state"),
                "step": status.get("step"),
                "num_steps": status.get("num_steps"),
                "metric": last_metric(record.run_dir(i) / "metrics.jsonl"),
                "log": record.logs[i],
            }
        )
    return rows


def last_metric(place: Path) -> str | None:
    """The newest record that says how good the model is, else the newest loss, as `name value (step)`."""
    if not place.is_file():
        return None
    newest: dict[str, Mapping[str, Any]] = {}
    for line in place.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # being written
            continue
        kind = "train" if found["split"] == "train" else "eval"
        if kind == "eval" or found["name"] == "loss":
            newest[kind] = found
    best = newest.get("eval") or newest.get("train")
    return None if best is None else f"{best['name']} {best['value']:.4f} (step {best['step']})"


def records(folder: Path) -> list[Record]:
    """All records below a folder of jobs, the oldest first."""
    found = [record for place in folder.glob(f"*/{RECORD}") if (record := Record.load(place.parent)) is not None]
    return sorted(found, key=lambda record: record.submitted)
