from __future__ import annotations

from stpipe.config.build import construct, to_root
from stpipe.config.decode import decode
from stpipe.config.load import load_config
from tests.config.toy import Size, toy_schema


def test_nested_dataclasses_and_tuples():
    size = construct(Size, {"height": 2, "unit": "cm"})
    assert size == Size(2, "cm")


def test_decoded_recipe_becomes_components():
    from stpipe.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

    root = to_root(load_config(["+recipe=matryoshka_all_nli"]).values)
    assert isinstance(root.loss, MatryoshkaLoss)
    assert isinstance(root.loss.loss, MultipleNegativesRankingLoss)
    assert root.loss.dims == (384, 256, 128, 64, 32)
    assert set(root.evaluator) == {"dev"}
    assert root.evaluator["dev"].dims == (256, 128, 64, 32)
    assert root.trainer.batch_size == 128
    assert root.imports == ()


def test_sources_are_sections_with_their_own_loss():
    root = to_root(load_config(["+recipe=multi_dataset"]).values)
    assert type(root.dataset.sources["nli"].loss).__name__ == "MultipleNegativesRankingLoss"
    assert root.dataset.sources["stsb"].max_rows == 20000
    assert root.dataset.checks.empty == "fail"
    assert root.sampler.mixing == "round_robin"


def test_component_fields_that_are_lists_of_dataclasses():
    root = to_root(load_config(["+recipe=dense_quickstart", "model.dense=[{out_features: 64}]", "model.pooling=[cls,mean]"]).values)
    assert root.model.dense[0].out_features == 64
    assert root.model.pooling == ("cls", "mean")


def test_decoding_is_stable():
    schema = toy_schema()
    once = decode({"shape": {"name": "frame", "shape": {"name": "circle"}}}, schema)
    assert decode(once, schema) == once
