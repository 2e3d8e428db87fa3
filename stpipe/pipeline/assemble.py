"""From a configuration to the objects of a run: model, data, objective, batches, evaluators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from rich.console import Console

from stpipe.config.sections import RootConfig, SourceSection
from stpipe.core.rows import Rows
from stpipe.core.tokenize import RoleTokenizer
from stpipe.data.prepare import PreparedData, prepare
from stpipe.data.stream import BatchStream, Collator, Sampler
from stpipe.data.streaming import StreamBatches
from stpipe.engine.backends import choose_device
from stpipe.engine.strategies import Choice
from stpipe.engine.train_module import TrainModule
from stpipe.engine.views import VIEWS
from stpipe.evaluation.base import Evaluator
from stpipe.losses.base import Loss
from stpipe.models.base_model import BaseModel, limit_of
from stpipe.models.cross_encoder import CrossEncoder
from stpipe.pipeline.console import Reporter
from stpipe.pipeline.frozen import FrozenModel
from stpipe.pipeline.guides import guided_collators
from stpipe.pipeline.noise import noisy_collators
from stpipe.pipeline.objective import label_ranges, losses_of, sampler_of
from stpipe.pipeline.pairs import check_outputs, fitted, fitted_to_classes, pair_collators, with_known_classes
from stpipe.pipeline.teacher import PackagedTeacher
from stpipe.pipeline.teaching import Teaching, check_widths
from stpipe.pipeline.training_texts import PreparedTexts


@dataclass(frozen=True)
class Parts:
    """What a run is made of, before a backend is started."""

    root: RootConfig
    model: BaseModel
    data: PreparedData
    losses: Mapping[str, Loss]
    sampler: Sampler
    collators: Mapping[str, Collator] = field(default_factory=dict)
    start: tuple[str, ...] = ()
    """What was set from the data before training, and found about the start weights, a line each."""
    choices: Mapping[str, Choice] = field(default_factory=dict)
    """Data set -> how its batches are computed (pipeline/computing.py); before that is chosen, the configured strategy is for all."""

    @property
    def evaluators(self) -> Mapping[str, Evaluator]:
        return self.root.evaluator

    def eval_rows(self) -> dict[str, Rows]:
        """Held-out rows by data set."""
        return {name: source.rows() for name, source in self.data.eval.items()}

    def source(self, name: str) -> SourceSection:
        """Configuration of one data set."""
        return source_of(self.root, name)

    def module(self) -> TrainModule:
        """Encoder and objectives as one module."""
        return TrainModule(
            self.model.encoder,
            self.losses,
            {name: self.choices[name].strategy if name in self.choices else self.root.strategy for name in self.losses},
            routes=routes_of(self.root, self.data.train),
            view=VIEWS[self.model.kind],
            seed=self.root.trainer.seed,
        )

    def stream(self, *, rank: int, world_size: int) -> BatchStream | StreamBatches:
        """Training batches of one process."""
        trainer = self.root.trainer
        make: Any = BatchStream
        if any(source.stream is not None for source in self.data.train.values()):
            assert trainer.max_steps is not None  # config/streaming_rules.py
            make = partial(StreamBatches, num_batches=trainer.max_steps * trainer.accumulation_steps)
        batches: BatchStream | StreamBatches = make(
            self.data.train,
            sampler=self.sampler,
            batch_size={name: self.source(name).batch_size or trainer.batch_size for name in self.data.train},
            weights={name: self.source(name).weight for name in self.data.train},
            seed=trainer.seed,
            drop_last=trainer.drop_last,
            collators=self.collators,
            rank=rank,
            world_size=world_size,
        )
        return batches


def source_of(root: RootConfig, name: str) -> SourceSection:
    """The section of one data set: an entry of dataset.sources, or the dataset section itself."""
    return root.dataset.sources.get(name, root.dataset)


def routes_of(root: RootConfig, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Data set -> role -> route of its own; those at the top of the dataset section are the defaults of each role."""
    return {name: {**root.dataset.routes, **source_of(root, name).routes} for name in names}


@dataclass(frozen=True)
class Asked:
    """Classes of the models that label, score and guide the data. A dry run has others (pipeline/stand_ins.py)."""

    frozen: type[FrozenModel] = FrozenModel
    packaged: type[PackagedTeacher] = PackagedTeacher


def load_data(root: RootConfig, model: BaseModel, out: Console, asked: Asked = Asked()) -> PreparedData:
    """Read, check and tokenise the data, or find it in the cache."""
    report = Reporter(out)
    return prepare(
        root.dataset,
        tokenizers=lambda role, routes: role_tokenizer(model, role, routes),
        model_prompts=model.training_prompts(),
        offline=root.offline,
        label_ranges=label_ranges(root),
        teacher=asked.packaged(device=choose_device(root.trainer.device), progress=report),
        teach=Teaching(root, out, frozen=asked.frozen),
        progress=report,
    )


def role_tokenizer(model: BaseModel, role: str, routes: Mapping[str, str]) -> RoleTokenizer:
    """How the texts of a role become tokens: as the module takes them by which they enter the model.

    routes: role -> route of the data set, where it names its own.
    """
    entry = model.encoder.input_of(model.encoder.route_of(role, routes))
    return RoleTokenizer(entry.tokenizer, entry.special_tokens, limit_of(entry.tokenizer))


def assemble(root: RootConfig, out: Console, asked: Asked = Asked()) -> Parts:
    """Load model and data. Everything that can be wrong with either is found here, before anything is written."""
    torch.manual_seed(root.trainer.seed)  # new layers (dense heads) are drawn from the global generator
    model = root.model.build()
    if root.trainer.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    data = load_data(root, model, out, asked)
    if model.encoder.layout_reason is None:
        model.encoder.choose_layout()
    losses = losses_of(root, data.train)
    collators: Mapping[str, Collator] = {}
    if isinstance(model, CrossEncoder):
        check_outputs(model, losses, data.train)
        losses = fitted(losses, data.train)
        collators = pair_collators(model, losses)
    else:
        losses = fitted_to_classes(losses, data.train)
        collators = noisy_collators(losses, lambda name: role_tokenizer(model, "anchor", routes_of(root, (name,))[name]).tokenizer)
        collators = guided_collators(root, losses, data.train, collators, out, frozen=asked.frozen)
        check_widths(losses, data.train, model.encoder.embedding_dim)
    data = replace(data, train=with_known_classes(data.train, losses, model))
    start = root.model.adapt(model, PreparedTexts(data.train, routes_of(root, data.train), model.encoder.route_of))
    return Parts(root, model, data, losses, sampler_of(root, losses, data.train), collators, start)
