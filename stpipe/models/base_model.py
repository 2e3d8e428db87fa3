"""What the inference classes have in common: loading, prompts, device, storage."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import torch
from torch import nn

from stpipe.config.errors import ConfigError
from stpipe.config.registry import unknown_name
from stpipe.core.reps import Rep
from stpipe.core.tokens import Tokens
from stpipe.models.encoder import Encoder
from stpipe.models.format import LoadOptions, Settings, dense_stack, read_modules, read_settings, write_model
from stpipe.models.inference import Place, Share, Work, perform
from stpipe.models.modules import Module
from stpipe.models.paths import resolve_path
from stpipe.models.renamed import renamed
from stpipe.models.runtimes import BACKENDS
from stpipe.models.tokenizer import UNLIMITED

logger = logging.getLogger("stpipe")


class LoadArguments(TypedDict, total=False):
    """Arguments that every inference class takes; see BaseModel."""

    modules: Sequence[Module] | None
    device: str | torch.device | None
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None
    cache_folder: str | None
    trust_remote_code: bool
    revision: str | None
    local_files_only: bool
    token: bool | str | None
    model_kwargs: Mapping[str, Any] | None
    processor_kwargs: Mapping[str, Any] | None
    config_kwargs: Mapping[str, Any] | None
    tokenizer_kwargs: Mapping[str, Any] | None
    model_card_data: Any
    backend: str


class BaseModel(nn.Module):
    """A stored model: what it computes of texts is up to its class.

    Args:
        model_name_or_path: directory, package://MODULE/SUBDIR or Hub id, of a sentence-transformers model or of a bare
            transformers checkpoint.
        modules: modules to use instead of a path; the first one takes the tokens.
        device: where to compute; None takes the first of cuda, mps, npu, cpu that is there.
        prompts: name -> text put before each input; added to the stored ones.
        default_prompt_name: prompt that is used where none is given.
        cache_folder, revision, token, local_files_only, trust_remote_code: for Hub models.
        model_kwargs, processor_kwargs, config_kwargs: arguments for transformers' model (dtype, device_map,
            attn_implementation...), tokenizer and configuration.
        model_card_data: SentenceTransformerModelCardData, or that of the kind of model; `save_pretrained` writes README.md with it.
        backend: what computes the backbone: torch, onnx or openvino. For the latter two, model_kwargs take `file_name`, `subfolder`,
            `export`, and `provider`, `provider_options`, `session_options` (onnx) or `ov_config`, `device` (openvino); see docs/exports.md.
        load: further fields of LoadOptions, for classes that have them as arguments.
    """

    kind: ClassVar[str]
    model_type: ClassVar[str]
    default_prompts: ClassVar[Mapping[str, str]] = {}
    """Prompts that every model of the class has, unless it stores others under these names."""
    bare = staticmethod(dense_stack)
    """Modules of a transformers checkpoint without modules.json."""

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        modules: Sequence[Module] | None = None,
        device: str | torch.device | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "torch",
        load: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_backend(backend, modules)
        self.backend = backend
        if tokenizer_kwargs is not None:
            renamed("tokenizer_kwargs", "processor_kwargs")
            processor_kwargs = processor_kwargs or tokenizer_kwargs
        settings = Settings()
        self.name_or_path = None if model_name_or_path is None else str(model_name_or_path)
        if modules is None:
            if self.name_or_path is None:
                raise ConfigError("give either model_name_or_path or modules")
            path = resolve_path(
                self.name_or_path, offline=local_files_only, revision=revision, token=token, cache_dir=cache_folder, backend=backend
            )
            remote = {"trust_remote_code": True} if trust_remote_code else {}
            options = LoadOptions(
                model={**remote, **(model_kwargs or {})},
                tokenizer={**remote, **(processor_kwargs or {})},
                config={**remote, **(config_kwargs or {})},
                backend=backend,
                **(load or {}),
            )
            settings = read_settings(path)
            modules = self.read_stack(path, settings, options)
        self.stored = settings
        self.encoder = Encoder(modules)
        self.prompts: dict[str, str] = {**self.default_prompts, **settings.prompts, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or settings.default_prompt_name
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise ConfigError(unknown_name("default prompt", self.default_prompt_name, list(self.prompts)))
        self.model_card_data = model_card_data
        self._place(device)
        self.eval()

    def _place(self, device: str | torch.device | None) -> None:
        spread = [b for b in self.encoder.backbones if getattr(b.model, "hf_device_map", None) is not None]
        if not spread:
            self.to(device or best_device())
        else:  # spread over devices: its results come back to the device of its first layer
            for head in list(self)[1:]:
                head.to(self.device)

    @classmethod
    def read_stack(cls, path: Path, settings: Settings, options: LoadOptions) -> list[Module]:
        """The modules of a model directory, as this class needs them."""
        return read_modules(path, options=options, bare=cls.bare)

    def forward(self, tokens: Tokens, outputs: frozenset[str] = frozenset(), route: str | None = None) -> Rep:
        """Tokens to representations with gradient, as training uses it; see Encoder."""
        return self.encoder(tokens, outputs, route)

    # Prompts and mode

    def resolve_prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """The text put before inputs: the prompt, else the named one, else the default, else nothing."""
        name = prompt_name if prompt_name is not None else self.default_prompt_name
        if prompt is not None:
            if prompt_name is not None:
                logger.warning("prompt and prompt_name are both given; prompt_name is ignored")
            return prompt
        if name is None:
            return ""
        if name not in self.prompts:
            raise ConfigError(unknown_name("prompt", name, list(self.prompts)))
        return self.prompts[name]

    def training_prompts(self) -> Mapping[str, str]:
        """Role, or side of a search (`query`, `document`) -> prompt that `encode` or `predict` puts before such texts."""
        return self.prompts

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode without gradients, in the layout that suits the backbone; the mode is put back afterwards."""
        training = self.training
        self.eval()
        try:
            if self.encoder.layout_reason is None:
                logger.debug(self.encoder.choose_layout())
            with torch.inference_mode():
                yield
        finally:
            self.train(training)

    def perform(self, work: Work, share: Share, place: Place) -> None:
        """Compute one share of what another process of the run was asked for.

        place: gets the places of some inputs (n,), and what was computed of them.
        """
        with self.inference():
            perform(self.encoder, work, share, place)

    # Properties and storage

    @property
    def similarity_fn_name(self) -> str:
        """How its embeddings are compared; empty for a model that gives none."""
        return ""

    @property
    def tokenizer(self) -> Any:
        return self.encoder.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self.encoder.input_of().tokenizer = tokenizer

    @property
    def max_seq_length(self) -> int | None:
        """Longest text in tokens, special tokens included; None has no limit. It is the tokenizer's model_max_length."""
        return limit_of(self.tokenizer)

    @max_seq_length.setter
    def max_seq_length(self, limit: int | None) -> None:
        for route in self.encoder.routes or (None,):
            self.encoder.input_of(route).tokenizer.model_max_length = limit or UNLIMITED

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.dtype

    def __len__(self) -> int:
        return len(self.encoder.stack)

    def __getitem__(self, index: int) -> Module:
        return self.encoder.stack[index]  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Module]:
        return iter(self.encoder.stack)  # type: ignore[arg-type]

    def gradient_checkpointing_enable(self) -> None:
        """Recompute the backbone's activations in the backward: less memory, about a third slower."""
        for backbone in self.encoder.backbones:
            backbone.enable_gradient_checkpointing()

    def compile(self, *args: Any, **options: Any) -> None:
        """torch.compile the backbone in place; arguments are those of torch.compile."""
        for backbone in self.encoder.backbones:
            backbone.network.compile(*args, **options)

    def settings(self) -> Settings:
        """What is saved besides the modules."""
        return Settings(dict(self.prompts), self.default_prompt_name, model_type=self.model_type)

    def save_pretrained(self, path: str | Path) -> None:
        """Write a directory that sentence-transformers and stpipe read; with a model card when the model was given `model_card_data`."""
        write_model(Path(path), modules=list(self), settings=self.settings())
        if self.model_card_data is not None:
            self.model_card_data.write(path)

    save = save_pretrained


def check_backend(backend: str, modules: Sequence[Module] | None) -> None:
    """Refuse a backend that there is none of, and one for modules that are made already."""
    if backend not in ("torch", *BACKENDS):
        raise ConfigError(unknown_name("backend", backend, ["torch", *BACKENDS]))
    if backend != "torch" and modules is not None:
        raise ConfigError(f"backend '{backend}' is for models that are loaded; modules that are given compute as they are")


def best_device() -> str:
    """The first of cuda, mps and npu that is there, else cpu."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator is not None else "cpu"


def limit_of(tokenizer: Any) -> int | None:
    """Longest text in tokens; None has no limit."""
    limit: int = tokenizer.model_max_length
    return limit if limit < UNLIMITED else None


def as_texts(inputs: Any) -> tuple[list[str], bool]:
    """A list of texts, and whether the input was a single one. Arrays and columns of a data set are lists too."""
    if isinstance(inputs, str):
        return [inputs], True
    texts = [] if inputs is None else list(inputs)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigError(f"encode: input {place} is {type(text).__name__}, expected str")
    return texts, False
