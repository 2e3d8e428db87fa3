"""`stpipe slurm`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stpipe.cli.arguments import FLAGS_HELP, parser
from stpipe.config.errors import ConfigError
from stpipe.config.suggest import unknown_name

FOLDER = "outputs/slurm"
HELP = f"""stpipe slurm: a run as a SLURM job.

Usage: stpipe slurm submit [overrides and flags], with the overrides that `train` would get
       stpipe slurm script [overrides and flags]      print the batch script, touch nothing
       stpipe slurm status [RUN or JOB ...] [--folder DIR] [--json]

What is asked for are keys: slurm.partition, nodes, gpus_per_node, tasks_per_node, cpus_per_task, mem, time, account, qos, signal,
requeue, setup, extra. They are checked, with everything else, before anything is submitted. A job that is preempted or reaches its time
limit saves, is queued again, and continues in the same run directory. A sweep: stpipe train ... -m hydra/launcher=slurm

Examples
  stpipe slurm script +recipe=mnrl_all_nli slurm.gpus_per_node=8 backend=ddp slurm.time=12:00:00
  stpipe slurm submit +recipe=mnrl_all_nli slurm.gpus_per_node=8 backend=ddp slurm.time=12:00:00 slurm.partition=gpu
  stpipe slurm status
{FLAGS_HELP}"""
ACTIONS = ("submit", "status", "script")


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if arguments else ConfigError.exit_code
    action, rest = arguments[0], arguments[1:]
    if action not in ACTIONS:
        raise ConfigError(unknown_name("action of `stpipe slurm`", action, ACTIONS))
    if "-h" in rest or "--help" in rest:
        print(HELP, end="")
        return 0
    return status(rest) if action == "status" else submit_or_show(action, rest)


def submit_or_show(action: str, arguments: list[str]) -> int:
    """`submit` and `script`."""
    args = parser(f"slurm {action}").parse_intermixed_args(arguments)
    if args.multirun:
        raise ConfigError("a sweep is submitted with: stpipe train ... -m hydra/launcher=slurm")
    if args.cfg or args.info or args.hydra_help:
        raise ConfigError("--cfg, --info and --hydra-help go with `stpipe train` or `stpipe validate`")
    from stpipe.cli.slurm_jobs import job_of, plan, submit_run
    from stpipe.launch.slurm_script import script

    planned = plan(args, args.overrides)
    if action == "script":
        print(script(job_of(planned)), end="")
        return 0
    for warning in planned.loaded.warnings:
        print(f"warning: {warning}")
    record = submit_run(planned)
    print(f"Job     {record.job_id}\nRun     {planned.run_dir}\nLog     {record.logs[0]}\nScript  {record.script}")
    return 0


def status(arguments: list[str]) -> int:
    """`status`: job, its state, the run's state, the newest metric."""
    flags = argparse.ArgumentParser(prog="stpipe slurm status", add_help=False, allow_abbrev=False)
    flags.add_argument("wanted", nargs="*", metavar="RUN or JOB")
    flags.add_argument("--folder", default=FOLDER)
    flags.add_argument("--json", action="store_true")
    args = flags.parse_args(arguments)
    from stpipe.launch.slurm import describe, records

    rows = [row for record in records(Path(args.folder)) for row in describe(record) if _is_wanted(row, record.cwd, args.wanted)]
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    if not rows:
        what = f" for {', '.join(args.wanted)}" if args.wanted else ""
        raise ConfigError(f"no job{what} below {args.folder}. `stpipe slurm submit` makes one; --folder names another slurm.folder")
    lines = [("JOB", "SLURM", "RUN", "STATE", "STEP", "METRIC"), *(_line(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _is_wanted(row: dict[str, Any], cwd: str, wanted: list[str]) -> bool:
    place = Path(cwd) / row["run"]
    return not wanted or any(
        text in (row["job"], row["job"].partition("_")[0], row["name"]) or Path(text).resolve() == place.resolve() for text in wanted
    )


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    slurm = row["slurm"] + (f" ({row['reason']})" if row["reason"] else "") + (f" exit {row['exit_code']}" if row["exit_code"] else "")
    slurm += f", restarted {row['restarts']}x" if row["restarts"] else ""
    step = f"{row['step']}/{row['num_steps']}" if row["num_steps"] else "-"
    return (row["job"], slurm, row["run"], row["state"] or "-", step, row["metric"] or "-")
