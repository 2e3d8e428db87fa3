"""What can be wrong with a SLURM job before anything is submitted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from stpipe.config.finding import Rules
from stpipe.config.origins import Path
from stpipe.config.sections import TrainerSection
from stpipe.config.slurm import Layout, section_of

#: What SLURM reads as a time limit: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS.
TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)
MEMORY = re.compile(r"\d+[KMGT]?", re.IGNORECASE)
SIGNAL = re.compile(r"(?:SIG)?([A-Z][A-Z0-9]*)@(\d+)")
WORD = re.compile(r"[\w.,:@*/+=-]+")
#: The name of a raw directive, and the keys that write one themselves.
DIRECTIVE = re.compile(r"--([a-z][a-z0-9-]*)(?:[= ].*)?")
OWN_DIRECTIVES: Mapping[str, str] = {
    "partition": "slurm.partition",
    "account": "slurm.account",
    "qos": "slurm.qos",
    "nodes": "slurm.nodes",
    "ntasks": "slurm.tasks_per_node",
    "ntasks-per-node": "slurm.tasks_per_node",
    "gpus-per-node": "slurm.gpus_per_node",
    "cpus-per-task": "slurm.cpus_per_task",
    "mem": "slurm.mem",
    "time": "slurm.time",
    "signal": "slurm.signal",
    "requeue": "slurm.requeue",
    "no-requeue": "slurm.requeue",
    "array": "slurm.array_parallelism",
    "job-name": "run.name",
    "output": "slurm.folder",
    "error": "slurm.folder",
    "open-mode": "slurm.folder",
    "chdir": "the folder in which the command is given",
}


def _key(name: str) -> Path:
    return ("slurm", name)


def words(rules: Rules) -> None:
    """What stands in one directive is one word."""
    for name in ("partition", "account", "qos"):
        value = section_of(rules.values)[name]
        if value is not None and not WORD.fullmatch(value):
            rules.problem(_key(name), f"{value!r} is no name of SLURM: expected letters, digits and '_.,-' without spaces")


def amounts(rules: Rules) -> None:
    """Time and memory in the words of SLURM."""
    section = section_of(rules.values)
    time, memory = section["time"], section["mem"]
    if isinstance(time, int):
        rules.problem(
            _key("time"),
            f"found the number {time}: YAML reads an unquoted 12:00:00 as one, so it cannot be told what is meant. Quote it: '12:00:00', or '90' for "
            "minutes (on a command line: slurm.time=\"'90'\")",
        )
    elif time is not None and not TIME.fullmatch(time):
        rules.problem(_key("time"), f"{time!r} is no time limit: expected minutes, HH:MM:SS or D-HH:MM:SS")
    if isinstance(memory, str) and not MEMORY.fullmatch(memory):
        rules.problem(_key("mem"), f"{memory!r} is no amount of memory: expected a number with K, M, G or T, like 64G")


def signal(rules: Rules) -> None:
    """A signal that the run knows, early enough."""
    text, trainer, defaults = section_of(rules.values)["signal"], rules.values["trainer"], TrainerSection()
    known = trainer.get("preempt_signals", defaults.preempt_signals)
    grace = trainer.get("grace_period", defaults.grace_period)
    if text is None:
        return
    found = SIGNAL.fullmatch(text)
    if found is None:
        rules.problem(
            _key("signal"),
            f"{text!r} is not NAME@SECONDS, like USR1@120. It goes to the processes of the run, never to the shell (B:)",
        )
        return
    name, seconds = f"SIG{found[1]}", int(found[2])
    if name not in known:
        rules.problem(
            _key("signal"),
            f"{name} would kill the run: trainer.preempt_signals, by which it saves and leaves, are {', '.join(known) or 'none'}",
        )
    if seconds <= grace:
        rules.problem(
            _key("signal"),
            f"{seconds} s before the time limit is too late: saving may take trainer.grace_period={grace:g} s",
        )


def lines(rules: Rules) -> None:
    """Raw directives and lines of shell."""
    section = section_of(rules.values)
    for i, text in enumerate(section["extra"]):
        found = DIRECTIVE.fullmatch(text)
        if found is None:
            rules.problem((*_key("extra"), i), f"{text!r} is no directive: expected one line like --constraint=a100")
        elif found[1] in OWN_DIRECTIVES:
            rules.problem((*_key("extra"), i), f"--{found[1]} is written by {OWN_DIRECTIVES[found[1]]}; set that instead")
    for i, text in enumerate(section["setup"]):
        if "#SBATCH" in text:
            rules.problem(
                (*_key("setup"), i), "SLURM reads no directives after the first command; put it into slurm.extra, without #SBATCH"
            )
    for name in ("folder", "python"):
        if re.search(r"[\"'\\\n]", section[name] or ""):
            rules.problem(_key(name), f"{section[name]!r} has a quote, a backslash or a line break, which SLURM takes apart")


SLURM_RULES: tuple[Callable[[Rules], None], ...] = (words, amounts, signal, lines)


def slurm_keys(rules: Rules) -> None:
    """All of them, where the configuration has the section."""
    if rules.values.get("slurm") is not None:
        for rule in SLURM_RULES:
            rule(rules)


def layout(rules: Rules) -> Layout:
    """Which processes the job has; what does not fit the backend is a problem.

    A section may stand in a configuration that is also run without SLURM, so only what makes a job asks this.
    """
    section, backend = section_of(rules.values), rules.values["backend"]
    distributed = bool(rules.component("backend", backend["name"]).get("x-distributed"))
    given, nodes = backend.get("num_processes"), int(section["nodes"])
    tasks = section["tasks_per_node"]
    if tasks is None and distributed:
        tasks = section["gpus_per_node"] or (given // nodes if given else None)
    found = Layout(nodes, tasks or 1)
    if found.processes > 1 and not distributed:
        rules.problem(
            ("backend", "name"),
            f"'{backend['name']}' is one process, but slurm.nodes={nodes} with {found.tasks_per_node} process(es) each asks for {found.processes}. "
            "Use backend=ddp, or slurm.nodes=1 and slurm.tasks_per_node=1",
        )
    elif given is not None and given != found.processes:
        rules.problem(
            ("backend", "num_processes"),
            f"is {given}, but slurm.nodes={nodes} with {found.tasks_per_node} process(es) each makes {found.processes}. Leave it out: the job counts",
        )
    elif distributed and found.processes == 1 and given is None:
        rules.problem(
            _key("tasks_per_node"),
            f"nothing says how many processes backend '{backend['name']}' has. Set slurm.gpus_per_node, slurm.tasks_per_node, or backend=single",
        )
    return found
