"""MLflow: parameters, metrics by step, files, registered models, and sweeps as a parent with its runs as children."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from stpipe.config.fields import option
from stpipe.config.redact import scrub
from stpipe.config.registry import TRACKERS
from stpipe.config.sweep import Sweep
from stpipe.trackers.base import KEEPS, Artifacts, Ending, Memory, Session, TrackedRun, Tracker
from stpipe.trackers.records import Record

EXPERIMENT = "stpipe"
#: What MLflow takes: entries in a request, characters of a value. Longer values are cut; config.yaml has them whole.
METRICS, PARAMETERS, VALUE, TAG = 1000, 100, 6000, 5000
#: Waits of a request and between attempts, unless the environment says otherwise: MLflow's own would wait for a quarter of an hour.
REQUESTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_DISABLE_TELEMETRY": "true"}
UID, SWEEP, STATE, EXIT_CODE, ERROR, TAGS = (f"stpipe.{name}" for name in ("uid", "sweep", "state", "exit_code", "error", "tags"))
PARENT = "mlflow.parentRunId"
#: Where MLflow's flavour `sentence_transformers` looks for the model, below the model's folder.
FLAVOUR_FOLDER = "model.sentence_transformer"


@TRACKERS.register("mlflow")
@dataclass(frozen=True)
class MLflowTracker(Tracker):
    """A tracking server of MLflow, or its files.

    User and password, or a token, come from the environment (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN).
    """

    package: ClassVar[str | None] = "mlflow"
    extra: ClassVar[str | None] = "mlflow"

    tracking_uri: str | None = option(
        None, help="Address of the server, like http://host:5000 or sqlite:///mlflow.db; None is $MLFLOW_TRACKING_URI or MLflow's default."
    )
    experiment: str | None = option(None, help="Name of the experiment; None is $MLFLOW_EXPERIMENT_NAME or `stpipe`.")
    artifacts: Artifacts = option("records", help=KEEPS)
    registered_model: str | None = option(
        None, help="Name under which the model of a finished run becomes a new version in the model registry; the model is then kept, too."
    )

    @property
    def keeps(self) -> Artifacts:
        return self.artifacts

    @property
    def keeps_model(self) -> bool:
        return self.artifacts == "model" or self.registered_model is not None

    def connect(self, run: TrackedRun, memory: Memory) -> Session:
        for name, value in REQUESTS.items():
            os.environ.setdefault(name, value)
        return MLflowSession(self, run, memory)


class MLflowSession(Session):
    """A run at MLflow, by its client alone: nothing here depends on MLflow's global state."""

    def __init__(self, tracker: MLflowTracker, run: TrackedRun, memory: Memory) -> None:
        from mlflow.tracking import MlflowClient

        self.tracker, self.run, self.memory = tracker, run, memory
        self.client = MlflowClient(tracking_uri=tracker.tracking_uri)
        self.experiment = self._experiment(tracker.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)
        self.parent = None if run.sweep is None else self._parent(run.sweep)
        self._known: Mapping[str, Any] = {}
        if memory.id is None:
            memory.id = self._found(UID, memory.uid) or self._create()
            memory.save()
        self._reopen(memory.id)

    @property
    def id(self) -> str:
        assert self.memory.id is not None
        return self.memory.id

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name))
            except MlflowException as error:
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise error
        return str(found.experiment_id)

    def _create(self) -> str:
        tags = {UID: self.memory.uid, TAGS: ", ".join(self.run.tags)}
        if self.parent is not None:
            tags[PARENT] = self.parent
        return str(self.client.create_run(self.experiment, run_name=self.run.name, tags=tags).info.run_id)

    def _reopen(self, run_id: str) -> None:
        """Running (again), with the parameters that are not there yet: MLflow refuses to change one."""
        from mlflow.entities import Param

        found = self.client.get_run(run_id)
        self._known = found.data.metrics
        self.client.update_run(run_id, status="RUNNING")
        if self.parent is not None:
            self.client.update_run(self.parent, status="RUNNING")
        parameters = [
            Param(key, text(value)) for key, value in self.run.parameters().items() if key not in found.data.params and value is not None
        ]
        for some in parts(parameters, PARAMETERS):
            self.client.log_batch(run_id, params=some)
        uri = self.client.tracking_uri
        if uri.startswith("http"):
            self.memory.url = scrub(f"{uri.rstrip('/')}/#/experiments/{self.experiment}/runs/{run_id}")
        self.memory.save()

    def _found(self, tag: str, value: str) -> str | None:
        """The oldest run of the experiment with a tag."""
        runs = self.client.search_runs([self.experiment], f"tags.`{tag}` = '{value}'", order_by=["attributes.start_time ASC"])
        return min((str(r.info.run_id) for r in runs if r.info.start_time == runs[0].info.start_time), default=None)

    def _parent(self, sweep: Sweep) -> str:
        """The run that stands for the sweep. Jobs that start at the same moment may each make one; the oldest stays."""
        found = self._found(SWEEP, sweep.id)
        if found is not None:
            return found
        tags = {SWEEP: sweep.id, TAGS: ", ".join(self.run.tags)}
        own = str(self.client.create_run(self.experiment, run_name=sweep.name, tags=tags).info.run_id)
        self.client.log_param(own, "overrides", text(" ".join(sweep.overrides)))
        found = self._found(SWEEP, sweep.id) or own
        if found != own:
            self.client.delete_run(own)
        return found

    def last_step(self, key: str) -> int | None:
        name = metric_name(key)
        if name not in self._known:
            return None
        return max((metric.step for metric in self.client.get_metric_history(self.id, name)), default=None)

    def log(self, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(metric_name(r.key), r.value, round(1000 * r.time), r.step) for r in records]
        for some in parts(metrics, METRICS):
            self.client.log_batch(self.id, metrics=some)

    def upload(self, files: Mapping[str, Path], *, model: bool, done: Callable[[str], None]) -> None:
        inner = FLAVOUR_FOLDER if model and has_flavour(self.run.folder / "model") else None
        for name, path in files.items():
            folder = Path(name).parent
            if inner is not None:
                folder = Path("model", inner, *folder.parts[1:])
            self.client.log_artifact(self.id, str(path), None if str(folder) == "." else folder.as_posix())
            done(name)
        if inner is not None:
            self.client.log_text(self.id, flavour(self.id), "model/MLmodel")

    def finish(self, ending: Ending) -> None:
        name = self.tracker.registered_model
        if name is not None and ending.good and "version" not in self.memory.notes:
            self.memory.notes["version"] = self._register(name)
            self.memory.save()
        found = {STATE: ending.state, EXIT_CODE: str(ending.exit_code), ERROR: scrub(ending.error or "")[:TAG]}
        for key, value in found.items():
            self.client.set_tag(self.id, key, value)
        self.client.set_terminated(self.id, status(ending))
        if self.parent is not None:
            self._finish_parent(self.parent)

    def _register(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return str(self.client.create_model_version(name, f"runs:/{self.id}/model", run_id=self.id).version)

    def _finish_parent(self, parent: str) -> None:
        """The sweep is over, as far as one can tell, when no job runs; it ended as its worst job."""
        children = self.client.search_runs([self.experiment], f"tags.`{PARENT}` = '{parent}'", max_results=1000)
        states = {str(child.info.status) for child in children}
        worst = next((s for s in ("RUNNING", "FAILED", "KILLED") if s in states), "FINISHED")
        if worst != "RUNNING":
            self.client.set_terminated(parent, worst)


def status(ending: Ending) -> str:
    """MLflow's word for an ending; the tag `stpipe.state` has our own."""
    return "FINISHED" if ending.good else "KILLED" if ending.stopped else "FAILED"


def metric_name(key: str) -> str:
    """A series under a name that MLflow takes: `dev_ndcg@10` becomes `dev_ndcg_at_10`."""
    return re.sub(r"[^/\w.\- ]", "_", key.replace("@", "_at_"))


def text(value: Any) -> str:
    """A parameter as text, cut to what MLflow takes."""
    found = value if isinstance(value, str) else json.dumps(value)
    return found if len(found) <= VALUE else found[: VALUE - 3] + "..."


def parts(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Values in lists of at most `size`."""
    return [values[i : i + size] for i in range(0, len(values), size)]


def has_flavour(folder: Path) -> bool:
    """Whether MLflow's flavour `sentence_transformers` can load a saved model: a dense one."""
    try:
        found = json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("model_type", "SentenceTransformer") == "SentenceTransformer"


def flavour(run_id: str) -> str:
    """MLmodel, which makes `mlflow.sentence_transformers.load_model` and `mlflow.pyfunc.load_model` understand the folder."""
    from mlflow.models import Model

    try:
        version = metadata.version("sentence-transformers")
    except metadata.PackageNotFoundError:  # not needed to train; whoever loads the model has it
        version = "unknown"
    made = Model(run_id=run_id, artifact_path="model", utc_time_created=time.strftime("%Y-%m-%d %H:%M:%S.000000", time.gmtime()))
    made.add_flavor("python_function", loader_module="mlflow.sentence_transformers", data=FLAVOUR_FOLDER)
    made.add_flavor("sentence_transformers", sentence_transformers_version=version)
    return str(made.to_yaml())
