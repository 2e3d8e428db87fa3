"""`stpipe fetch`: every asset of a configuration in the local caches, so that the run needs no network."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from stpipe.config.assets import Asset, assets
from stpipe.config.errors import ConfigError, Problem, UnreachableError
from stpipe.config.load import Loaded
from stpipe.data.sources.hub import explain
from stpipe.data.sources.request import SourceRequest
from stpipe.models.paths import ignored_files, resolve_path, unneeded
from stpipe.pipeline.console import console

HERE, FETCHED, TO_FETCH, LOCAL, MISSING = "there", "fetched", "to fetch", "local", "MISSING"
COMMIT = re.compile(r"@([0-9a-f]{7,40})(?:/|$)")
#: What a data set that was prepared has in its folder.
PREPARED = "dataset_info.json"
SHORT = 10  # characters of a commit that the table shows


@dataclass(frozen=True)
class Row:
    """A line of the table. state: one of the words above; commit: that was or would be fetched; size: bytes of its files, None: not known."""

    asset: Asset
    state: str
    commit: str | None = None
    size: int | None = None


def run_fetch(loaded: Loaded, *, dry_run: bool = False) -> int:
    """Fetch what is not there yet, and show all assets; returns the exit code.

    Files that were fetched whole stay, so a fetch that was stopped continues with the file that it was at. With offline=true, or where the
    environment forbids to ask a hub, it only looks whether all is there.

    Args:
        loaded: configuration.
        dry_run: fetch nothing.

    Raises:
        ConfigError: for each asset that can be had neither from a hub nor from the cache, its key; after all others were fetched.
    """
    out = console(loaded.values["trainer"]["progress"])
    offline = bool(loaded.values["offline"]) or huggingface_hub.constants.is_offline_mode()
    mode = loaded.values["trainer"]["progress"]
    rows: list[Row] = []
    problems: list[UnreachableError | ConfigError] = []
    wanted = assets(loaded.values)
    with hub_bars(mode == "bar" or (mode == "auto" and sys.stderr.isatty())):
        for number, asset in enumerate(wanted, 1):
            if asset.on_hub and not dry_run:
                out.print(f"{number} of {len(wanted)}  {asset.kind} {asset.shown}", markup=False)
            try:
                rows.append(looked_up(asset, offline=offline, dry_run=dry_run))
            except ConfigError as error:
                problems.append(error)
                rows.append(Row(asset, MISSING))
    Console().print(table_of(rows))
    if problems:
        raise problems[0] if len(problems) == 1 else ConfigError([p for error in problems for p in error.problems])
    if not any(row.asset.on_hub for row in rows):
        out.print("Nothing to fetch: the configuration names nothing on a hub")
    return 0


def looked_up(asset: Asset, *, offline: bool, dry_run: bool) -> Row:
    """Fetch an asset, or find it; what lies on this machine is looked at.

    Raises:
        ConfigError: it is nowhere, naming its keys.
    """
    if not asset.on_hub:
        check_local(asset)
        return Row(asset, LOCAL)
    find: Callable[..., Row] = fetch_model if asset.kind == "model" else fetch_data
    return find(asset, offline=offline, dry_run=dry_run)


def check_local(asset: Asset) -> None:
    """Refuse a path or package that is not there."""
    key = ", ".join(asset.keys)
    if asset.name.startswith("package://"):
        try:
            resolve_path(asset.name, offline=True)
        except ConfigError as error:
            raise ConfigError([Problem(key, p.message) for p in error.problems]) from error
    elif "://" not in asset.name and not any(c in asset.name for c in "*?[") and not Path(asset.name).expanduser().exists():
        raise ConfigError(Problem(key, f"there is no file or directory '{asset.name}' on this machine"))


def fetch_model(asset: Asset, *, offline: bool, dry_run: bool) -> Row:
    """A model repository without the weights of other frameworks, in the Hub cache."""
    before = cached_model(asset)
    if offline:
        if before is None:
            raise unreachable(asset, "not in the local Hub cache, and offline")
        return Row(asset, HERE, before.name, size_of(before))
    found, failure = planned(asset)
    if failure:
        if before is None:
            raise unreachable(asset, f"neither in the local Hub cache nor reachable ({failure})")
        return Row(asset, HERE, before.name, size_of(before))
    size = sum(file.file_size or 0 for file in found)
    commit = found[0].commit_hash if found else None
    if not any(file.will_download for file in found):
        # Names of branches are noted too, which a cache that was filled by commit lacks.
        path = resolve(asset, offline=False)
        return Row(asset, HERE, path.name, size)
    if dry_run:
        return Row(asset, TO_FETCH, commit, size)
    path = resolve(asset, offline=False)
    after = cached_model(asset)
    if after != path:
        raise unreachable(asset, f"fetched to {path}, but the cache gives {after}")
    return Row(asset, FETCHED, path.name, size)


def planned(asset: Asset) -> tuple[list[Any], str]:
    """(what the Hub client would do for each file, why it could not be asked)."""
    reasons = []
    for repo in repositories(asset.name):
        ignored, failure = ignored_files(repo, asset.revision, None)
        if not failure:
            try:
                return huggingface_hub.snapshot_download(repo, revision=asset.revision, ignore_patterns=ignored, dry_run=True), ""
            except Exception as error:  # the hub client lets the types of its HTTP library through
                failure = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reasons.append(f"{repo}: {failure}")
    return [], "; ".join(reasons)


def repositories(name: str) -> tuple[str, ...]:
    """The repositories that a name may mean, as `resolve_path` tries them."""
    return (name,) if "/" in name else (name, f"sentence-transformers/{name}")


def resolve(asset: Asset, *, offline: bool) -> Path:
    """Where a run will find a model."""
    try:
        return resolve_path(asset.name, offline=offline, revision=asset.revision)
    except UnreachableError as error:
        raise unreachable(asset, error.found) from error
    except ConfigError as error:
        raise ConfigError([Problem(", ".join(asset.keys), p.message) for p in error.problems]) from error


def cached_model(asset: Asset) -> Path | None:
    """Its snapshot in the cache, as a run without a network finds it. A snapshot without a file that is linked is not whole."""
    for repo in repositories(asset.name):
        try:
            path = huggingface_hub.snapshot_download(
                repo, revision=asset.revision, local_files_only=True, ignore_patterns=unneeded("torch")
            )
        except LocalEntryNotFoundError:
            continue
        return Path(path)
    return None


def fetch_data(asset: Asset, *, offline: bool, dry_run: bool) -> Row:
    """A data set as `datasets` prepares it: all splits of a subset, and the files that they come from in the Hub cache."""
    request = SourceRequest(asset.name, ", ".join(asset.keys), subset=asset.subset, revision=asset.revision, offline=offline)
    try:
        builder = builder_of(asset, offline=offline)
        place = Path(str(builder.cache_dir))
        commit = COMMIT.search(str(builder.base_path or ""))
        known = commit[1] if commit else None
        if (place / PREPARED).is_file():
            return Row(asset, HERE, known, builder.info.download_size or size_of(place))
        if dry_run:
            return Row(asset, TO_FETCH, known, remote_size(builder))
        builder.download_and_prepare()
    except Exception as error:
        raise explain(request, error) from error
    return Row(asset, FETCHED, known, builder.info.download_size)


def builder_of(asset: Asset, *, offline: bool) -> Any:
    """The builder that a run will use."""
    config = datasets.DownloadConfig(local_files_only=offline)
    return datasets.load_dataset_builder(asset.name, asset.subset, revision=asset.revision, download_config=config)


def remote_size(builder: Any) -> int | None:
    """Bytes of the files of a data set on the Hub; None where it does not say."""
    files = builder.config.data_files or {}
    system = huggingface_hub.HfFileSystem()
    try:
        return sum(int(system.info(file)["size"]) for some in files.values() for file in some)
    except Exception:  # only a number for a table
        return None


def unreachable(asset: Asset, what: str) -> UnreachableError:
    return UnreachableError(asset.name, f"{asset.kind} '{asset.name}': {what}", key=", ".join(asset.keys))


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def table_of(rows: list[Row]) -> Table:
    """All assets: what, which commit, how large, whether it is there."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for title in ("asset", "kind", "revision"):
        table.add_column(title, overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("named by", overflow="fold")
    for row in rows:
        asked = row.asset.revision or ""
        commit = "" if row.commit is None else row.commit[:SHORT]
        revision = commit if not asked or asked.startswith(commit) else f"{asked} {commit}".strip()
        size = "" if row.size is None else f"{row.size / 1e6:,.1f} MB"
        table.add_row(row.asset.shown, row.asset.kind, revision, size, row.state, ", ".join(row.asset.keys))
    return table


@contextmanager
def hub_bars(shown: bool) -> Any:
    """Inside, the bars of both Hub libraries are shown, or not; afterwards as before."""
    before = (not huggingface_hub.utils.are_progress_bars_disabled(), datasets.is_progress_bar_enabled())
    switches = (
        (huggingface_hub.utils.enable_progress_bars, huggingface_hub.utils.disable_progress_bars),
        (datasets.enable_progress_bars, datasets.disable_progress_bars),
    )
    verbosity = datasets.utils.logging.get_verbosity()
    try:
        datasets.utils.logging.set_verbosity_error()
        for on, off in switches:
            (on if shown else off)()
        yield
    finally:
        datasets.utils.logging.set_verbosity(verbosity)
        for (on, off), was in zip(switches, before, strict=True):
            (on if was else off)()
