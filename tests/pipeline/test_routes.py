"""Routes of several data sets: keys at the top are defaults role by role, for the tokens and for the forward alike."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from stpipe.config.load import load_config, to_root
from stpipe.models import InferenceFreeSpladeModel
from stpipe.pipeline.assemble import Parts
from tests.models.tiny import make_tokenizer
from tests.models.tiny_splade import masked_lm

DATA = [
    "dataset.routes={anchor: document}",
    "dataset.sources={a: {train: 'stdlib://docstrings', routes: {positive: query}}, b: {train: 'stdlib://docstrings'}}",
]


def test_routes_at_the_top_are_the_defaults_of_each_role(tmp_path: Path) -> None:
    masked_lm("bert").save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    root = to_root(load_config([f"model.name_or_path={tmp_path}", "model.name=splade_inference_free", *DATA]).values)
    model = InferenceFreeSpladeModel(name_or_path=str(tmp_path)).build()
    data = SimpleNamespace(train={"a": None, "b": None})
    routes = Parts(root, model, data, losses={}, sampler=None).module().routes  # type: ignore[arg-type]
    assert routes == {"a": {"anchor": "document", "positive": "query"}, "b": {"anchor": "document"}}
