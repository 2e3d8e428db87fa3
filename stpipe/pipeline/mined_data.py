"""The data of a run after mining: each data set of pairs gives way to what was mined from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from stpipe.config.errors import DataError
from stpipe.config.mining import BY_ROLE, LISTS, MINABLE, held_out_format, mined_negatives, renamed_roles
from stpipe.config.redact import redact_secrets
from stpipe.config.sections import DatasetSection, MineSection, RootConfig, SourceSection
from stpipe.data.corpus import read_texts
from stpipe.data.load import Loaded
from stpipe.data.prepare import data_sets, read_splits
from stpipe.data.sources import SourceRequest
from stpipe.engine.backends import choose_device
from stpipe.pipeline.console import Reporter
from stpipe.pipeline.mining import MinedPart, Miner, role_texts
from stpipe.pipeline.objective import label_ranges
from stpipe.pipeline.teacher import PackagedTeacher
from stpipe.reports.mining import write_mining_report

Splits = Mapping[str, Loaded]
MakeMiner = Callable[[RootConfig, MineSection, Console], Miner]


@dataclass(frozen=True)
class MinedData:
    """root: the configuration with the mined data in the place of what it was mined from; parts: data set -> split -> part."""

    root: RootConfig
    parts: Mapping[str, Mapping[str, MinedPart]]

    def write_report(self, folder: Path, *, title: str) -> None:
        """mine.json and mine.html, one section for each part; nothing when nothing was mined."""
        reports = {}
        for name, parts in self.parts.items():
            for split, part in parts.items():
                if part.mined:
                    reports[split if len(self.parts) == 1 else f"{name}, {split}"] = part.report()
        if reports and self.root.mine is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_mining_report(folder, title=title, parts=reports, facts={"setting": setting_of(self.root.mine)})


def setting_of(mine: MineSection) -> dict[str, Any]:
    """The section as a report shows it: without places, and without what is not set."""
    shown: dict[str, Any] = redact_secrets(asdict(mine))
    return {key: value for key, value in shown.items() if value is not None and key not in ("output", "cache_dir")}


def with_mined_data(root: RootConfig, out: Console, *, training: bool = True, make_miner: MakeMiner = Miner) -> MinedData:
    """Mine the data of a run, or find that it was mined; a configuration without the section `mine` is left as it is.

    Args:
        root: configuration.
        out: where progress is told.
        training: mine the training rows; False leaves them as they are, for evaluation needs held-out rows only.
        make_miner: what mines.

    Raises:
        DataError: no data set has pairs. ConfigError: a model that does not exist.
    """
    mine = root.mine
    lists = mine is not None and held_out_format(asdict(mine), root.model.kind) == LISTS
    if mine is None or not (training or lists):
        return MinedData(root, {})
    miner = make_miner(root, mine, out)
    corpus = further_documents(root, mine)
    found: dict[str, dict[str, MinedPart]] = {}
    read = read_rows(root, out)
    for name, splits in read.items():
        if splits["train"].format.name not in MINABLE:
            out.print(f"data set '{name}' is {splits['train'].format.name}: not mined")
            continue
        found[name] = {"train": miner.negatives(splits["train"], corpus) if training else miner.kept("train", splits["train"])}
        if "eval" in splits:
            others = role_texts(splits["train"], "positive") if mine.held_out_corpus == "all" else []
            held_out = splits["eval"]
            found[name]["eval"] = miner.lists(held_out, [*corpus, *others]) if lists else miner.kept("eval", held_out)
    if not found:
        formats = ", ".join(f"'{name}' is {splits['train'].format.name}" for name, splits in read.items())
        raise DataError(f"negatives are mined for {', '.join(MINABLE)} data, but data set {formats}. Remove the section `mine`")
    return MinedData(replace(root, dataset=replaced(root.dataset, found, negatives=mined_negatives(asdict(mine)))), found)


def read_rows(root: RootConfig, out: Console) -> dict[str, dict[str, Loaded]]:
    """The rows of all data sets, as training would take them."""
    teacher = PackagedTeacher(device=choose_device(root.trainer.device), progress=Reporter(out))
    ranges = {} if root.mine is not None else label_ranges(root)  # mined rows have the labels that the loss is for, these have none
    return read_splits(root.dataset, offline=root.offline, label_ranges=ranges, teacher=teacher)


def further_documents(root: RootConfig, mine: MineSection) -> list[str]:
    """The documents of mine.corpus."""
    if mine.corpus is None:
        return []
    return read_texts(SourceRequest(mine.corpus, "mine.corpus", cache_dir=root.dataset.cache_dir, offline=root.offline))


def replaced(section: DatasetSection, found: Mapping[str, Mapping[str, MinedPart]], *, negatives: int) -> DatasetSection:
    """The section with mined parts in the place of the data that they were mined from; negatives: columns of them."""
    if not section.sources:
        return replace(section, **mined_keys(section, found["default"], negatives))
    # Keys at the top are left out, because each source has its own by now, under the names that its roles have.
    wholes = data_sets(section)
    sources = {
        name: replace(source, **mined_keys(source, found[name], negatives)) if name in found else source for name, source in wholes.items()
    }
    return DatasetSection(
        sources=sources, embedded=section.embedded, checks=section.checks, cache_dir=section.cache_dir, num_proc=section.num_proc
    )


def mined_keys(source: SourceSection, parts: Mapping[str, MinedPart], negatives: int) -> dict[str, Any]:
    """What changes in the keys of a data set."""
    train, held_out = parts["train"], parts.get("eval")
    formats = tuple(part.format for part in parts.values())
    changed: dict[str, Any] = {key: renamed_roles(getattr(source, key), *formats, negatives=negatives) for key in BY_ROLE}
    changed.update(dict.fromkeys(("subset", "revision", "split", "eval_split", "max_rows")), columns={}, joins={})
    changed.update(train=str(train.file), format=train.format)
    if held_out is None:
        return {**changed, "eval": None, "eval_format": None, "eval_rows": 0}
    return {**changed, "eval": str(held_out.file), "eval_format": held_out.format}
