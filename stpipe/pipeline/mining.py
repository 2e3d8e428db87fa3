"""The models that mine, and one part of mined data: a split of a data set, made once and kept by what went into it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from rich.console import Console

from stpipe.config.errors import ConfigError, Problem, UnreachableError
from stpipe.config.mining import mined_format
from stpipe.config.sections import MineSection, RootConfig
from stpipe.core.digest import digest, folder_digest
from stpipe.data.cache import cache_root, make_once
from stpipe.data.load import Loaded
from stpipe.engine.backends import choose_device
from stpipe.models.base_model import BaseModel
from stpipe.models.cross_encoder import CrossEncoder
from stpipe.models.load import load_model
from stpipe.models.modules import Normalize
from stpipe.models.paths import resolve_path
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.models.static_distillation import distil_static
from stpipe.pipeline.console import Reporter
from stpipe.search.embedding_cache import text_hashes
from stpipe.util.mining.formats import RANKED, Names
from stpipe.util.mining.mine import Mining
from stpipe.util.mining.pairs import Pairs, pair_up
from stpipe.util.mining.retriever import Prompt, Retriever, Scorer, SearchOptions, weights_identity
from stpipe.util.mining.run import Mined, Output, texts_of, token_counter
from stpipe.util.mining.settings import Rules

VERSION = 1
REPORT = "report.json"
#: Keys of the section that change no row.
NO_MATTER = ("output", "cache_dir", "rounds", "batch_size", "faiss_batch_size", "held_out", "held_out_documents", "held_out_corpus")


@dataclass(frozen=True)
class MinedPart:
    """One split of a data set after mining. folder holds SPLIT.parquet, and report.json where it was mined; format: of its rows."""

    split: str
    format: str
    folder: Path

    @property
    def mined(self) -> bool:
        """False for rows that were left as they are."""
        return (self.folder / REPORT).exists()

    @property
    def file(self) -> Path:
        return self.folder / f"{self.split}.parquet"

    def report(self) -> dict[str, Any]:
        """`MiningReport.as_dict()` of this part."""
        found: dict[str, Any] = json.loads((self.folder / REPORT).read_text(encoding="utf-8"))
        return found


class Miner:
    """Models and caches of one run's mining. Models are loaded when something is to be mined, not to find that it was.

    Args:
        root: configuration.
        mine: its section `mine`.
        out: where progress is told.
    """

    def __init__(self, root: RootConfig, mine: MineSection, out: Console) -> None:
        self.root, self.mine, self.out = root, mine, out
        self.cache = cache_root(mine.cache_dir or root.dataset.cache_dir)
        self.device = choose_device(root.trainer.device)
        self.report = Reporter(out)

    @cached_property
    def model(self) -> BaseModel:
        """The model that finds candidates."""
        return self._static() if self.mine.static else self._named()

    def _static(self) -> BaseModel:
        """A static embedding of the model that is named, made once."""
        folder = self.cache / "static" / self.identity

        def distil(into: Path) -> None:
            dense = self._named()
            if not isinstance(dense, SentenceTransformer):
                what = f"a static embedding is made from a dense model, and mine.model is a {dense.model_type}; remove the key"
                raise ConfigError(Problem("mine.static", what))
            SentenceTransformer(modules=[distil_static(dense), Normalize()], device=self.device).save_pretrained(into)

        make_once(folder, distil)
        return load_model(folder, device=self.device)

    def _named(self) -> BaseModel:
        if self.mine.model is None:
            torch.manual_seed(self.root.trainer.seed)  # as when training starts: new layers are drawn from the global generator
            model: BaseModel = self.root.model.build()
            return model.to(self.device)
        return load_model(self._path("model", self.mine.model), device=self.device)

    @cached_property
    def identity(self) -> str:
        """Of that model: its files, or its weights where they are made from the configuration."""
        named = weights_identity(self._named()) if self.mine.model is None else folder_digest(self._path("model", self.mine.model))
        return digest(["static", VERSION, named]) if self.mine.static else named

    @cached_property
    def scorer_identity(self) -> str | None:
        """Of the cross-encoder; None where nothing looks at its scores."""
        if self.mine.cross_encoder is None or not self.rules().uses_scores:
            return None
        return folder_digest(self._path("cross_encoder", self.mine.cross_encoder))

    def rules(self) -> Rules:
        """Parameters of the choice."""
        mine = self.mine
        return Rules(
            num_negatives=mine.num_negatives,
            range_min=mine.range_min,
            range_max=mine.range_max,
            max_score=mine.max_score,
            min_score=mine.min_score,
            absolute_margin=mine.absolute_margin,
            relative_margin=mine.relative_margin,
            sampling_strategy=mine.sampling_strategy,
            include_positives=mine.include_positives,
            seed=mine.seed,
        )

    def negatives(self, rows: Loaded, corpus: Sequence[str]) -> MinedPart:
        """Training rows with their negatives."""
        output_format = "n-tuple" if self.mine.include_positives else self.mine.output_format
        names = Names(*LABELLED.get(output_format, ("anchor", "positive")))
        output = Output(output_format, self.mine.output_scores, names)
        return self._part("train", mined_format(asdict(self.mine)), rows, corpus, self.rules(), output)

    def lists(self, rows: Loaded, corpus: Sequence[str]) -> MinedPart:
        """Held-out queries with documents in the order of the retriever, positives among them or behind."""
        count = self.mine.held_out_documents
        rules = Rules(num_negatives=count, range_max=count, include_positives=True)
        return self._part("eval", "query-documents", rows, corpus, rules, Output(RANKED, False, Names("query", "documents")))

    def kept(self, split: str, rows: Loaded) -> MinedPart:
        """The pairs as they are, beside those that were mined."""
        columns = {role: role_texts(rows, role) for role in ("anchor", "positive")}
        folder = self.cache / "mined" / digest([VERSION, split, *map(texts_digest, columns.values())])
        make_once(folder, lambda into: write_pairs(into / f"{split}.parquet", columns))
        return MinedPart(split, "pair", folder)

    def _part(self, split: str, fmt: str, rows: Loaded, corpus: Sequence[str], rules: Rules, output: Output) -> MinedPart:
        anchors, positives = (role_texts(rows, role) for role in ("anchor", "positive"))
        texts = [texts_digest(part) for part in (anchors, positives, corpus)]
        asked = {key: value for key, value in asdict(self.mine).items() if key not in NO_MATTER}
        models = [self.identity, self.scorer_identity]
        key = digest([VERSION, texts, models, asked, rules.as_dict(), output.output_format, asdict(output.names)])
        folder = self.cache / "mined" / key
        make_once(folder, lambda into: self._write(into, split, pair_up(anchors, positives, corpus), rules, output))
        return MinedPart(split, fmt, folder)

    def _write(self, into: Path, split: str, pairs: Pairs, rules: Rules, output: Output) -> None:
        scorer = self._scorer() if rules.uses_scores else None
        retriever = Retriever(
            self.model,
            self.identity,
            self.cache / "embeddings",
            Prompt(self.mine.query_prompt, self.mine.query_prompt_name),
            Prompt(self.mine.corpus_prompt, self.mine.corpus_prompt_name),
            self.mine.batch_size,
            progress=self.report,
        )
        options = SearchOptions(self.mine.use_faiss, self.mine.faiss_index, self.mine.faiss_batch_size)
        resolved = rules.resolved(pairs.most_rows, rescored=scorer is not None)
        mining = Mining(pairs, retriever, resolved, self.cache / "mining", scorer, options, self.report)
        settings = {**resolved.as_dict(), "output_format": output.output_format}
        mined = Mined(mining, output, settings)
        path = into / f"{split}.parquet"
        rows = write_parquet(path, mined.tables())
        report = mined.report(rows, lambda numbers: parquet_texts(path, numbers), token_counter(self.model))
        (into / REPORT).write_text(json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        for line in report.lines():
            self.out.print(f"{split}: {line}", soft_wrap=True)
        shutil.rmtree(mining.folder / mining.identity, ignore_errors=True)  # unfinished work that is finished now

    def _scorer(self) -> Scorer | None:
        if self.scorer_identity is None or self.mine.cross_encoder is None:
            return None
        model = CrossEncoder(str(self._path("cross_encoder", self.mine.cross_encoder)), device=self.device)
        return Scorer(model, self.scorer_identity, self.mine.batch_size)

    def _path(self, key: str, name: str) -> Path:
        try:
            return resolve_path(name, offline=self.root.offline)
        except UnreachableError as error:
            raise UnreachableError(error.asset, error.found, key=f"mine.{key}") from error
        except ConfigError as error:
            raise ConfigError([Problem(f"mine.{key}", problem.message) for problem in error.problems]) from error


LABELLED = {"labeled-pair": ("query", "document"), "labeled-list": ("query", "documents")}


def role_texts(rows: Loaded, role: str) -> list[str]:
    """The texts of one role, row by row."""
    found: list[str] = rows.texts.texts.take(pa.array(rows.texts.roles[role].index)).to_pylist()
    return found


def texts_digest(texts: Sequence[str]) -> str:
    """Hash of texts in their order."""
    return xxhash.xxh3_128_hexdigest(text_hashes(texts).tobytes())


def write_pairs(path: Path, columns: Mapping[str, list[str]]) -> None:
    """Write texts by role."""
    write_parquet(path, [pa.table({role: pa.array(texts, pa.string()) for role, texts in columns.items()})])


def write_parquet(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write tables one after the other; returns the number of rows. The same rows give the same bytes."""
    rows, writer = 0, None
    try:
        for table in tables:
            writer = writer or pq.ParquetWriter(path, table.schema)
            if table.num_rows:
                writer.write_table(table)
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return rows


def parquet_texts(path: Path, numbers: Sequence[int]) -> list[list[str]]:
    """The texts of some rows of a file, a row group at a time."""
    found: list[list[str]] = []
    wanted = np.array(numbers, np.int64)
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            inside = wanted[(wanted >= first) & (wanted < first + size)] - first
            if inside.size:
                found += texts_of(file.read_row_group(group), inside.tolist())
            first += size
    return found
