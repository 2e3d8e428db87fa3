"""Hydra's own flags (--cfg, --info, --hydra-help) and --multirun, over stpipe's composition."""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stpipe.cli.arguments import load
from stpipe.cli.failures import report_failure, stderr
from stpipe.cli.slurm_sweep import SLURM_LAUNCHER, SweepTask
from stpipe.config.compose import hydra_overrides, open_loader
from stpipe.config.errors import ConfigError, Problem
from stpipe.config.load import Loaded
from stpipe.config.redact import redact_command, redact_text, remember_command, scrub
from stpipe.config.sweep import Sweep
from stpipe.config.variables import variables

PARTLY_DONE = 5
#: Exit codes of a job that was told to stop, and with it the sweep: preempted, interrupted.
ENDING = (75, 130)
#: Overrides about where jobs are started and leave records: a dry run starts none and leaves none.
STARTING = ("hydra/launcher", "hydra.launcher", "hydra.sweep.dir", "hydra.sweep.subdir")


#: A job gets a function that composes its configuration.
Job = Callable[[Callable[[], Loaded]], int]


def run_flags(args: argparse.Namespace, job: Job) -> int:
    """Do what the flags ask for; errors of Hydra are errors of the configuration."""
    if args.resolve and not args.cfg:
        raise ConfigError(Problem("", "--resolve goes with --cfg", "--resolve"))
    if sum(map(bool, (args.multirun, args.cfg, args.info, args.hydra_help))) > 1:
        raise ConfigError("only one of --multirun, --cfg, --info and --hydra-help can be used")
    remember_command(args.overrides)
    loader = open_loader(args.overrides, config_dir=args.config_dir, config_path=args.config_path)
    overrides = hydra_overrides(args.overrides, loader)
    GlobalHydra.instance().clear()
    hydra = Hydra(task_name="stpipe", config_loader=loader)
    GlobalHydra.instance().initialize(hydra)
    try:
        if args.multirun:
            return _multirun(hydra, args, overrides, job)
        if args.cfg:
            with io.StringIO() as text, redirect_stdout(text):
                hydra.show_cfg(args.config_name, overrides, args.cfg, args.package, args.resolve)
                shown = scrub(redact_text(text.getvalue()))
            print(shown, end="")
        elif args.info:
            hydra.show_info(args.info, config_name=args.config_name, overrides=overrides)
        else:
            hydra.hydra_help(args.config_name, args_parser=get_args_parser(), args=argparse.Namespace(overrides=overrides))
        return 0
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split())) from error
    finally:
        GlobalHydra.instance().clear()


def _multirun(hydra: Hydra, args: argparse.Namespace, overrides: Sequence[str], job: Job) -> int:
    """All jobs of a sweep, by Hydra's sweeper and launcher; each job composes from its own overrides."""
    codes: list[int] = []

    def task(_: Any) -> int:
        given = OmegaConf.to_container(HydraConfig.get().overrides.task)
        chosen = [str(o) for o in given] if isinstance(given, list) else []
        shown = redact_command([o.lstrip("+") if o.startswith("++") else o for o in chosen])
        stderr().print(f"job {HydraConfig.get().job.num}: {' '.join(shown)}")
        code = _guarded(lambda: job(lambda: load(args, chosen)))
        if code in ENDING:
            raise SweepEndsError(code)
        codes.append(code)
        return code

    jobs = SweepTask(task, args)
    on_slurm = any(o.lstrip("+") == SLURM_LAUNCHER for o in overrides)
    with tempfile.TemporaryDirectory(prefix="stpipe-sweep-") as scratch, variables(Sweep.of(args.overrides).variable()):
        # The sweeper leaves a record and a folder a job; the runs themselves write into run.dir.
        if getattr(args, "dry_run", False):
            overrides = [*(o for o in overrides if not o.lstrip("+~").startswith(STARTING)), "hydra/launcher=basic"]
        own = any(o.lstrip("+").startswith("hydra.sweep.dir=") for o in overrides)
        place = [] if own else [f"hydra.sweep.dir={scratch}"]
        try:
            results = hydra.multirun(args.config_name, jobs, [*overrides, *place, "hydra.mode=MULTIRUN"], with_log_configuration=False)
        except SweepEndsError as end:
            return end.code
        finally:
            if own:
                clean_record(args.overrides)
        if on_slurm and getattr(args, "dry_run", False):
            jobs.show_scripts()
    if isinstance(results, list):
        codes = [r.return_value for batch in results for r in batch]
    if not codes:
        raise ConfigError("the sweep has no jobs")
    return codes[0] if len(set(codes)) == 1 else PARTLY_DONE


class SweepEndsError(BaseException):
    """A job was told to stop. No Exception, because Hydra's launcher would go on with the next job after one."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"exit code {code}")


def clean_record(overrides: Sequence[str]) -> None:
    """Take secrets out of the record of its overrides that Hydra's sweeper leaves in a folder that the user named."""
    folders = [o.partition("=")[2].strip("'\"") for o in overrides if o.lstrip("+").startswith("hydra.sweep.dir=")]
    for record in (Path(folder) / "multirun.yaml" for folder in folders):
        if record.is_file():
            record.write_text(scrub(redact_text(record.read_text(encoding="utf-8"))), encoding="utf-8")


def _guarded(work: Callable[[], int]) -> int:
    try:
        return work()
    except Exception as error:
        return report_failure(error)
