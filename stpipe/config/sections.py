"""The keys that belong to no component: run, trainer, dataset, card and the root that holds everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stpipe.config.fields import option
from stpipe.config.slurm import SlurmSection

Format = Literal[
    "text",
    "text-vector",
    "pair-vector",
    "labelled-text",
    "pair",
    "pair-score",
    "pair-class",
    "triplet",
    "triplet-score",
    "n-tuple",
    "n-tuple-scores",
    "query-document",
    "query-documents",
]


@dataclass(frozen=True)
class RunSection:
    """Identity and place of a run."""

    name: str | None = option(None, help="Name of the run; None derives one from the configuration. Never a time stamp.")
    dir: str | None = option(None, help="Run directory; None is outputs/<recipe>/<run.name>.")
    overwrite: bool = option(False, help="Replace a directory that already holds a run (it is refused otherwise).")
    tags: tuple[str, ...] = option(help="Free words recorded with the run.", factory=tuple)


@dataclass(frozen=True)
class TeacherSection:
    """Labels that a frozen model gives the rows of a data set before training, in the place of any that the data hold."""

    model: str = option(
        help="Directory, `package://MODULE/SUBDIR` or Hub id of an embedding model, dense or sparse, or for scores and margins also of a cross-encoder with one output."
    )
    output: Literal["embeddings", "scores", "margins"] = option(
        help="embeddings: of the anchor, which all texts of the row are to match. scores: of anchor or query with each of its texts, the positive first. margins: score of the positive minus that of each negative.",
    )
    similarity: Literal["cosine", "dot", "euclidean", "manhattan"] | None = option(
        None, help="What the score of two embeddings is; distances are negated. None: the teacher's own."
    )
    activation: Literal["Identity", "Sigmoid"] | None = option(
        None, help="What the outputs of a cross-encoder go through; Identity leaves logits, whose margins do not saturate. None: its own."
    )
    query_prompt: str | None = option(
        None,
        help="Put before anchors and queries. None: the teacher's own for queries, in formats for retrieval (see Lengths and prompts).",
    )
    document_prompt: str | None = option(None, help="Put before all other texts; None as for query_prompt.")
    revision: str | None = option(None, help="Branch, tag or commit of a Hub model.")
    batch_size: int = option(32, ge=1, help="Texts, or pairs, of a forward through the teacher.")


@dataclass(frozen=True)
class SourceSection:
    """Where rows come from and what their columns mean. The keys of one data set."""

    train: str | None = option(
        None,
        help="Training data: a Hub id, a local file or directory, `package://MODULE/PATH`, `parallel://FILE` (sentences and their translations) or `stdlib://docstrings`.",
    )
    eval: str | None = option(None, help="Held-out data, given like `train`; None splits `eval_rows` off the training data.")
    columns: Mapping[str, str] = option(
        help="Role -> column. Roles: anchor, positive, negative_1..., query, document(s), label. Empty: columns that carry a role's name.",
        factory=dict,
    )
    joins: Mapping[str, str] = option(
        help="Role -> table of texts (path or Hub id with columns id and text) that the role's column of ids, or of lists of ids, is joined with when a row is read.",
        factory=dict,
    )
    format: Format | None = option(None, help="Format of the rows; None derives it from the roles and from what the label holds.")
    eval_format: Format | None = option(None, help="Format of held-out rows that `eval` names; None is that of the training rows.")
    subset: str | None = option(None, help="Configuration name of a Hub data set.")
    split: str | None = option(None, help="Split to read for training; None is `train`.")
    eval_split: str | None = option(
        None, help="Split to read for `eval`; None is the first of validation, dev and test that exists, for a file its only one."
    )
    revision: str | None = option(None, help="Git revision of a Hub data set.")
    streaming: bool = option(
        False, help="Read and tokenise the training rows while training, so that memory does not grow with them; needs trainer.max_steps."
    )
    shuffle_buffer: int = option(
        10_000, ge=1, help="Rows of a stream that are held in memory and shuffled together; rounded up to whole batches of all processes."
    )
    max_rows: int | None = option(None, ge=1, help="Use at most so many training rows, chosen by `split_seed`; None is all.")
    eval_rows: int = option(1000, ge=0, help="Rows of held-out data at most; split off by `split_seed` when `eval` is None.")
    split_seed: int = option(12, ge=0, help="Seed of the held-out split and of row caps; apart from trainer.seed so that seeds share data.")
    max_length: Mapping[str, int] = option(
        help="Role -> longest text in tokens (special tokens included). Key `default` is for all other roles; absent: the model's limit.",
        factory=dict,
        ge=1,
    )
    prompts: Mapping[str, str] = option(
        help="Role -> text put before each text of the role. Key `default` is for all other roles.", factory=dict
    )
    routes: Mapping[str, str] = option(
        help="Role -> route through a model with a Router; absent: `query` for anchors and queries, `document` for all others.",
        factory=dict,
    )
    teacher: TeacherSection | None = option(
        None,
        help="Labels by a teacher for training rows and held-out ones (not for those with a format of their own); None: those of the data.",
    )
    loss: Any = option(None, component="loss", help="Loss of this data set; None is the top-level loss.")
    weight: float = option(1.0, gt=0, help="Share of batches under sampler.mixing=weighted, relative to the other data sets.")
    batch_size: int | None = option(None, ge=1, help="Batch size of this data set per process; None is trainer.batch_size.")


@dataclass(frozen=True)
class CheckSection:
    """Pre-flight rules: what the scan of the data does about each finding."""

    empty: Literal["fail", "drop", "warn"] = option("fail", help="Texts that are None, empty or white space.")
    duplicate_rows: Literal["fail", "drop", "warn", "off"] = option("warn", help="Rows that occur more than once.")
    overlap: Literal["fail", "drop", "warn", "off"] = option(
        "warn", help="Training rows whose anchor or positive pair also occurs in the held-out data; drop removes them from training."
    )
    truncated_share: float = option(0.5, ge=0, le=1, help="Warn when a larger share of a role's texts is cut at the maximum length.")
    label_min: float | None = option(None, help="Least score; None is 0 for losses on cosine scores, else unbounded.")
    label_max: float | None = option(None, help="Greatest score; None is 1 for losses on cosine scores, else unbounded.")


@dataclass(frozen=True)
class DatasetSection(SourceSection):
    """The data of a run: one data set, or several under `sources`."""

    sources: Mapping[str, SourceSection] = option(
        help="Several data sets by name, each with the keys of one. Keys at the top are their defaults.", factory=dict
    )
    embedded: bool = option(
        False, help="Use docstring pairs of Python's standard library, in each data set's own format, instead of what train and eval name."
    )
    checks: CheckSection = option(help="Pre-flight rules.", factory=CheckSection)
    cache_dir: str | None = option(None, help="Folder of the token cache; None is $STPIPE_CACHE or the user's cache directory.")
    num_proc: int = option(1, ge=1, help="Processes that tokenise in `prepare`.")


@dataclass(frozen=True)
class MineSection:
    """Hard negatives: `stpipe mine` writes them, and a run whose configuration has this section mines them before it trains."""

    model: str | None = option(
        None, help="Embedding model that finds candidates, dense or sparse; None is the start weights of the run where they are one."
    )
    static: bool = option(
        False,
        help="Find candidates with a static embedding distilled from that model: a look-up a token in place of a forward, hundreds of times as fast, and coarser.",
    )
    cross_encoder: str | None = option(
        None,
        help="Cross-encoder whose scores the limits look at; used only with a margin, max_score or min_score. None: the embedding model's.",
    )
    corpus: str | None = option(
        None, help="Further documents to choose from: a file or Hub id with a column `text` (or one column). None: the positives alone."
    )
    num_negatives: int = option(3, ge=1, help="Negatives for each anchor.")
    range_min: int = option(0, ge=0, help="Nearest candidates to skip, counted after the limits: they may be answers.")
    range_max: int | None = option(
        None,
        ge=1,
        help="Nearest candidates to choose from; None is range_min + num_negatives + most positives of an anchor, ten times num_negatives with limits.",
    )
    max_score: float | None = option(None, help="Highest score of a negative.")
    min_score: float | None = option(None, help="Lowest score of a negative.")
    absolute_margin: float | None = option(None, help="A negative scores at least so much less than its anchor's lowest positive.")
    relative_margin: float | None = option(
        None, help="A negative scores at least this share of its anchor's lowest positive less than that; 0.05 did best for NV-Retriever."
    )
    sampling_strategy: Literal["top", "random"] = option("top", help="Take the nearest of the candidates that are left, or draw by `seed`.")
    seed: int = option(12, ge=0, help="Seed of sampling_strategy=random.")
    output_format: Literal["triplet", "n-tuple", "labeled-pair", "labeled-list"] = option(
        "triplet", help="Rows: one for each negative, one for each positive, one for each document with a label, or lists with labels."
    )
    output_scores: bool = option(False, help="Add the scores (triplet, n-tuple), or put them in the place of the labels.")
    include_positives: bool = option(False, help="Keep positives among the candidates, for data that tests rerankers; makes n-tuples.")
    query_prompt: str | None = option(None, help="Put before each query; None leaves it to the model.")
    query_prompt_name: str | None = option(None, help="Prompt of the model to put before each query.")
    corpus_prompt: str | None = option(None, help="Put before each document; None leaves it to the model.")
    corpus_prompt_name: str | None = option(None, help="Prompt of the model to put before each document.")
    held_out: Literal["auto", "lists", "keep"] = option(
        "auto",
        help="Held-out rows: lists of documents in the order of the embedding model, for rerankers to reorder, or as they are; auto: lists for cross-encoders.",
    )
    held_out_documents: int = option(30, ge=2, help="Documents of such a list; positives that are not among them come behind.")
    held_out_corpus: Literal["held_out", "all"] = option("held_out", help="Documents of the held-out rows alone, or of all rows.")
    rounds: int = option(
        1, ge=1, help="Equal parts of the training, before each of which the newest weights mine anew; needs `model` to be None."
    )
    batch_size: int = option(32, ge=1, help="Texts, or pairs, of a forward.")
    use_faiss: bool = option(False, help="Search by FAISS (extra `faiss`); with the flat index the result is the same.")
    faiss_index: str = option("Flat", help="FAISS's description of the index; every other than Flat is approximate.")
    faiss_batch_size: int = option(16384, ge=1, help="Queries searched at a time.")
    output: str | None = option(None, help="Folder that `stpipe mine` writes; None is outputs/mine/<run.name>.")
    cache_dir: str | None = option(None, help="Folder of embeddings and unfinished work; None is that of the token cache.")


@dataclass(frozen=True)
class TrainerSection:
    """The loop: length, batch, precision, schedule of evaluation and saving."""

    num_epochs: float = option(1.0, gt=0, help="Passes over the data; a fraction is allowed.")
    max_steps: int | None = option(None, ge=1, help="Optimiser steps; overrides num_epochs.")
    batch_size: int = option(32, ge=1, help="Rows per process and forward (with in-batch negatives: candidates per anchor).")
    eval_batch_size: int = option(64, ge=1, help="Texts per forward in evaluation.")
    accumulation_steps: int = option(
        1, ge=1, help="Batches whose gradients make one optimiser step. Does not add in-batch negatives; batch_size does."
    )
    seed: int = option(42, ge=0, help="Seed of order, dropout, and new parameters.")
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", help="Autocast precision; weights and optimiser stay fp32. fp16 needs a GPU."
    )
    device: Literal["auto", "cpu", "cuda", "mps", "npu"] = option("auto", help="auto takes the first accelerator found.")
    max_grad_norm: float | None = option(1.0, gt=0, help="Clip the norm of all gradients; None does not clip.")
    log_steps: int = option(10, ge=1, help="Optimiser steps between records in metrics.jsonl.")
    eval_steps: float | None = option(
        None, gt=0, help="Optimiser steps between evaluations; below 1 a share of all steps; None evaluates at the end only."
    )
    save_steps: float | None = option(
        None, gt=0, help="Optimiser steps between checkpoints, below 1 a share of all steps; None is eval_steps, or a fifth of all steps."
    )
    save_total_limit: int = option(2, ge=1, help="Checkpoints to keep; the newest and the best are never deleted.")
    best_metric: str | None = option(
        None, help="Metric that picks the model to keep, as EVALUATOR_METRIC (see `stpipe validate`); None keeps the last."
    )
    early_stopping_patience: int | None = option(None, ge=1, help="Stop after so many evaluations without a better best_metric.")
    resume: str = option("never", help="never, auto (newest complete checkpoint in run.dir), or the path of a checkpoint.")
    resume_allow: tuple[Literal["processes", "batch_size", "data", "versions", "lost_best"], ...] = option(
        help="What may differ from the run that is continued, which is refused otherwise; the run records it. lost_best: go on without the best model so far when its checkpoint is damaged.",
        factory=tuple,
    )
    ema_decay: float | None = option(
        None, gt=0, lt=1, help="Keep an exponential moving average of the weights and save that; None does not."
    )
    gradient_checkpointing: bool = option(False, help="Recompute activations inside the backbone: less memory, about a third slower.")
    num_workers: int = option(1, ge=0, help="Worker processes that collate batches; 0 collates in the main process.")
    drop_last: bool = option(False, help="Drop a last batch that is not full.")
    probe_first_step: bool = option(
        True, help="Run the longest batch once before training, so that out-of-memory shows in the first minute."
    )
    evaluate_before: bool = option(True, help="Evaluate the untrained model too, for the before/after table.")
    progress: Literal["auto", "bar", "line", "off"] = option("auto", help="auto: a live bar on a terminal, a line now and then elsewhere.")
    preempt_signals: tuple[Literal["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP"], ...] = option(
        help="Signals that ask the run to save a checkpoint and leave with exit code 75; empty: none, they end it as they end any program.",
        factory=lambda: ("SIGTERM", "SIGUSR1"),
    )
    grace_period: float = option(
        25.0,
        gt=0,
        help="Seconds from such a signal until the run leaves in any case, with the last complete checkpoint; below what the scheduler gives it.",
    )
    compile: bool = option(False, help="torch.compile the backbone. Worth it on a GPU with long runs only.")


@dataclass(frozen=True)
class CardSection:
    """What the model card cannot know by itself."""

    language: str | None = option(None, help="Language code of the model, like en.")
    license: str | None = option(None, help="Licence identifier of the Hub, like apache-2.0; unknown is stated, never guessed.")
    model_name: str | None = option(None, help="Name in the card's title; None is run.name.")
    examples: bool = option(False, help="Show three rows of each data set, and texts of it as examples of use. Off: data may be private.")
    template: str | None = option(None, help="Jinja file of your own for the card (docs/cards.md); None takes that of the kind of model.")
    energy: str | None = option(
        None,
        help="Measure energy with codecarbon (extra energy), and state emissions at the electricity mix of this country (three letters, like DEU); None measures nothing.",
    )


@dataclass(frozen=True)
class PublishSection:
    """Publishing the model to a Hub. Happens only where this section is set; the token comes from the environment (HF_TOKEN) or `hf auth login`."""

    repo_id: str = option(help="Repository, OWNER/NAME; it is made where there is none.")
    private: bool = option(True, help="Make a new repository private; one that exists stays as it is.")
    revision: str | None = option(None, help="Branch, made where there is none; None is the main one.")
    checkpoints: bool = option(False, help="Also at each checkpoint, in the background: the model as it is then, a commit each.")
    exports: bool = option(False, help="Also the verified exports, below exports/.")
    message: str | None = option(None, help="Message of the commit; None names the run.")


@dataclass(frozen=True)
class RootConfig:
    """A whole run. Every key of a YAML file or override is a field below here."""

    model: Any = option(component="model", help="Architecture and start weights.")
    loss: Any = option(None, component="loss", help="Objective; None is the default of the data's format and the model.")
    dataset: DatasetSection = option(help="Data.", factory=DatasetSection)
    sampler: Any = option(
        None, component="sampler", help="Which rows make a batch; None is no_duplicates for losses with in-batch negatives, else random."
    )
    evaluator: Mapping[str, Any] = option(help="Evaluators by name; the name starts their metrics.", factory=dict, component="evaluator")
    optimizer: Any = option(None, component="optimizer", help="Optimiser; None is adamw.")
    scheduler: Any = option(None, component="scheduler", help="Learning-rate schedule; None is linear with 10 % warm-up.")
    strategy: Any = option(None, component="strategy", help="How a batch is computed; None is auto, which picks the fastest way that fits.")
    backend: Any = option(None, component="backend", help="On what the run is computed; None is single (one process).")
    callbacks: Mapping[str, Any] = option(help="Further callbacks by name.", factory=dict, component="callback")
    mine: MineSection | None = option(None, help="Hard negatives, mined before training; None mines none.")
    trainer: TrainerSection = option(help="The loop.", factory=TrainerSection)
    run: RunSection = option(help="Identity and place.", factory=RunSection)
    card: CardSection = option(help="Model card.", factory=CardSection)
    tracker: Mapping[str, Any] = option(
        help="Experiment trackers by name; `tracker=[mlflow,tensorboard]` takes several. None of them can fail a run.",
        factory=dict,
        component="tracker",
    )
    export: Mapping[str, Any] = option(
        help="Exports by name: the model for other runtimes, each verified and put into exports/NAME. The model itself is saved in any case.",
        factory=dict,
        component="export",
    )
    publish: PublishSection | None = option(None, help="Publishing to a Hub; None publishes nothing.")
    slurm: SlurmSection | None = option(
        None, help="What a SLURM job of the run asks for; None is a job of the defaults. Only SLURM jobs read it."
    )
    imports: tuple[str, ...] = option(help="Modules to import first, so that their components can be chosen by name.", factory=tuple)
    offline: bool = option(
        False, help="Never ask a hub: sets HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE and HF_DATASETS_OFFLINE before anything is imported."
    )
    with_profile: Mapping[str, Mapping[str, Any]] = option(
        help="In a recipe: profile -> keys that hold too when that profile is chosen; they are laid right after it. Never part of a run's configuration.",
        factory=dict,
    )
