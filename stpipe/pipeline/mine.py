"""`stpipe mine`: hard negatives, written as a data set with a report."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.file_names import file_name
from stpipe.config.load import Loaded, to_root
from stpipe.config.sections import MineSection
from stpipe.engine.checkpoint import sync
from stpipe.pipeline.console import console
from stpipe.pipeline.mined_data import MinedData, with_mined_data
from stpipe.pipeline.run_dir import check_writable
from stpipe.reports.mining import MINE_HTML, MINE_JSON

#: What a folder may hold for it to be replaced without asking.
OURS = (MINE_JSON,)


def run_mine(loaded: Loaded) -> int:
    """Mine the data of a configuration and write them into one folder; returns the exit code.

    One data set becomes train.parquet and eval.parquet, several have a folder each; mine.json and mine.html stand beside. The
    folder is seen under its name when it is complete. A killed run continues where it was, and ends with the same bytes.

    Args:
        loaded: configuration; without the section `mine` its defaults hold.

    Raises:
        ConfigError: the folder holds something else than an earlier result, or cannot be written.
    """
    out = console(loaded.values["trainer"]["progress"])
    root = to_root(loaded.values)
    mine = root.mine or MineSection()
    folder = Path(mine.output or Path("outputs", "mine", loaded.values["run"]["name"]))
    check_place(folder, overwrite=root.run.overwrite)
    for warning in loaded.warnings:
        out.print(f"[yellow]warning[/] {warning}")
    mined = with_mined_data(replace(root, mine=mine), out)
    write_folder(folder, mined, title=loaded.values["run"]["name"])
    Console().print(str(folder), soft_wrap=True, highlight=False, markup=False)
    out.print(f"Report  {folder / MINE_HTML}\nTrain   stpipe train dataset.train={folder} dataset.eval={folder} ...")
    return 0


def check_place(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something else, before anything is computed."""
    check_writable(folder, key="mine.output")
    if folder.exists() and any(folder.iterdir()) and not overwrite and not all((folder / name).is_file() for name in OURS):
        what = f"{folder} holds files, but no mined data. Choose another mine.output, or run.overwrite=true to replace them"
        raise ConfigError(Problem("mine.output", what))


def write_folder(folder: Path, mined: MinedData, *, title: str) -> None:
    """Write all parts aside, then put them in place."""
    aside = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name, parts in mined.parts.items():
        place = aside if len(mined.parts) == 1 else aside / file_name(name)
        place.mkdir(exist_ok=True)
        for part in parts.values():
            shutil.copyfile(part.file, place / part.file.name)
    mined.write_report(aside, title=title)
    for path in (*aside.rglob("*"), aside):
        sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    sync(folder.parent)
