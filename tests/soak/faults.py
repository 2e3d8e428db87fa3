"""Ends a process at a chosen place, and logs what each step was made of. Everything is hooked in from outside, in the process that is to end.

Places: within an optimiser step, within an evaluation, and before, inside or after each write, fsync, rename and removal of a file of the run.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

#: Forwards of single modules that an evaluation point may lie behind, when nothing was measured.
FORWARDS = 20


@dataclass(frozen=True)
class Point:
    """Where a process ends.

    kind: "file" (the `number`-th file operation of the process), "operation" (the first `operation` on a file called `name`, where steps are
    written as *: `step-*`), "step" (inside optimiser step `number` of the run, between backward and
    update), "evaluation" (in the evaluation after step `number`, at its `forward`-th forward of a module), "time" (after `seconds`; whoever
    started the process does it).
    when: of a file operation: "before", "half" (of a write; before, of others) or "after".
    rank: of the process.
    """

    kind: str
    number: int = 0
    when: str = "before"
    forward: int = FORWARDS
    seconds: float = 0.0
    rank: int = 0
    operation: str = ""
    name: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Recorder:
    """Log of one process, one JSON value a line, and the end of that process.

    Args:
        log: file that is appended to; what it holds survives the process.
        folder: the run directory, whose files are watched.
        point: where the process ends; None: nowhere.
    """

    def __init__(self, log: Path, folder: Path, point: Point | None) -> None:
        self.folder = folder.resolve()
        self.point = point
        self.files = 0
        self.forwards = 0
        self.step: int | None = None
        self.evaluating: int | None = None
        self.rows: list[tuple[str, list[int]]] = []
        self._handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def line(self, **values: Any) -> None:
        os.write(self._handle, (json.dumps(values) + "\n").encode())

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def meets(self, kind: str, number: int) -> bool:
        return self.point is not None and (self.point.kind, self.point.number) == (kind, number)

    def ends_at(self, number: int, operation: str, name: str, when: str) -> bool:
        """Whether the process ends at this file operation."""
        point = self.point
        if point is None or point.when != when:
            return False
        if point.kind == "operation":
            return (point.operation, point.name) == (operation, without_step(name))
        return point.kind == "file" and point.number == number

    def inside(self, path: Any, base: int | None = None) -> str | None:
        """The path relative to the run directory; None when it is elsewhere."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        elif base is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{base}"), os.fspath(path))
        place = Path(os.path.abspath(os.fspath(path)))
        return place.relative_to(self.folder).as_posix() if place.is_relative_to(self.folder) else None

    def around(self, operation: str, name: str | None, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do a file operation, unless the process ends at it. half: leaves the file as it is in the middle of a write."""
        if name is None:
            return act()
        number, self.files = self.files, self.files + 1
        self.line(file=number, operation=operation, name=name)
        if self.ends_at(number, operation, name, "half"):
            (half or (lambda: None))()
            self.die()
        if self.ends_at(number, operation, name, "before"):
            self.die()
        result = act()
        if self.ends_at(number, operation, name, "after"):
            self.die()
        return result


def without_step(name: str) -> str:
    """The name of a file of a checkpoint, whichever checkpoint it is."""
    return re.sub(r"step-\d+", "step-*", name)


def install(log: Path, folder: Path, point: Point | None) -> None:
    """Hook into this process, which trains afterwards."""
    recorder = Recorder(log, folder, point)
    _watch_files(recorder)
    _watch_writes(recorder)
    _watch_steps(recorder)


def _watch_files(recorder: Recorder) -> None:
    def hook(name: str, which: int) -> None:
        original = getattr(os, name)

        def called(*args: Any, **options: Any) -> Any:
            base = options.get("dir_fd")
            return recorder.around(name, recorder.inside(args[which], base), lambda: original(*args, **options))

        setattr(os, name, called)

    for name, which in (("fsync", 0), ("rename", 1), ("replace", 1), ("unlink", 0), ("rmdir", 0)):
        hook(name, which)


def _watch_writes(recorder: Recorder) -> None:
    save, write_text = torch.save, Path.write_text

    def saved(value: Any, file: Any, *args: Any, **options: Any) -> Any:
        def half() -> None:
            buffer = io.BytesIO()
            save(value, buffer)
            file.write(buffer.getvalue()[: buffer.tell() // 2])
            file.flush()

        name = recorder.inside(file.name) if hasattr(file, "name") else None
        return recorder.around("write", name, lambda: save(value, file, *args, **options), half)

    def written(path: Path, text: str, *args: Any, **options: Any) -> int:
        def half() -> None:
            write_text(path, text[: len(text) // 2], *args, **options)

        return int(recorder.around("write", recorder.inside(path), lambda: write_text(path, text, *args, **options), half))

    torch.save = saved
    Path.write_text = written  # type: ignore[method-assign, assignment]


def _watch_steps(recorder: Recorder) -> None:
    from stpipe.engine.loop import Trainer

    step, count, evaluate = Trainer._step, Trainer._count, Trainer.evaluate

    def counted(self: Trainer, batch: Any, waited: float) -> None:
        recorder.rows.append((batch.source, batch.row.tolist()))
        count(self, batch, waited)

    def stepped(self: Trainer, *args: Any) -> Any:
        recorder.rows, recorder.step = [], self.state.step
        values = step(self, *args)
        recorder.step = None
        rates = [group["lr"] for group in self.runtime.optimizer.param_groups]
        recorder.line(step=self.state.step, rows=recorder.rows, lr=rates, loss=float(values["loss"]).hex())
        return values

    def evaluated(self: Trainer) -> bool:
        recorder.evaluating, recorder.forwards = self.state.step, 0
        result = evaluate(self)
        recorder.line(evaluation=self.state.step, forwards=recorder.forwards)
        recorder.evaluating = None
        return result

    def before_update(*_: Any) -> None:
        if recorder.step is not None and recorder.meets("step", recorder.step):
            recorder.die()

    def before_forward(*_: Any) -> None:
        if recorder.evaluating is None:
            return
        recorder.forwards += 1
        if recorder.meets("evaluation", recorder.evaluating) and recorder.point is not None and recorder.forwards == recorder.point.forward:
            recorder.die()

    for name, wrapper in (("_step", stepped), ("_count", counted), ("evaluate", evaluated)):
        setattr(Trainer, name, wrapper)
    register_optimizer_step_pre_hook(before_update)
    register_module_forward_pre_hook(before_forward)
