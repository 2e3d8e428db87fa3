"""A fresh head passes vectors on, and calibration makes any head sparse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import layer_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stpipe.config.errors import ConfigError
from stpipe.core.tokens import Tokens
from stpipe.models import InferenceFreeSpladeModel, SpladeModel
from stpipe.models.backbone import load_config, load_masked_lm
from stpipe.models.format import LoadOptions
from stpipe.models.mlm_head import SHIFT, calibrate_head, reset_head
from stpipe.models.modules import MaskedLanguageModel
from stpipe.models.sparse_stack import splade_stack
from stpipe.ops import splade_tiles
from tests.models.tiny import VOCAB, make_tokenizer, make_tokens
from tests.models.tiny_splade import MASKED, make_splade, masked_lm, save_checkpoint

FAMILIES = ("bert", "distilbert", "roberta", "mpnet")
PARTS = [make_tokens([20, 9, 9, 5], seed=i) for i in range(20)]


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_head_gives_products_with_the_word_embeddings(family: str) -> None:
    model = masked_lm(family, tie_word_embeddings=True)
    reset_head(model)
    ids = torch.tensor([[2, 7, 9, 3]])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        logits = model(input_ids=ids, attention_mask=mask).logits
        expected = layer_norm(hidden, hidden.shape[-1:]) @ model.get_input_embeddings().weight.T
    assert float(hidden.abs().max()) < SHIFT - 3, "the activation would not be in its linear part"
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def active_words(backbone: MaskedLanguageModel) -> torch.Tensor:
    """(V,) share of the sample in which each word is active."""
    vocabulary = backbone.vocabulary
    assert vocabulary is not None and vocabulary.bias is not None
    rows = []
    for tokens in PARTS:
        with torch.no_grad():
            vectors = backbone({"input_ids": tokens.ids, "lengths": tokens.lengths})["token_embeddings"]
        logits = vectors @ vocabulary.weight.T + vocabulary.bias
        rows += [part.amax(0) > 0 for part in logits.split(tokens.lengths.tolist())]
    return torch.stack(rows).float().mean(0)


@pytest.mark.parametrize("share", [0.05, 0.25])
def test_each_word_is_active_in_its_share_of_the_texts(share: float) -> None:
    backbone = make_splade("bert").backbone
    assert isinstance(backbone, MaskedLanguageModel)
    before = active_words(backbone)
    done = calibrate_head(backbone, PARTS, active_share=share, rescale=False)
    found = active_words(backbone)
    assert float((found - share).abs().max()) <= 1 / 80 + 1e-6  # 80 texts: the quantile is exact to one of them
    assert done.active_before == pytest.approx(float(before.sum()), rel=1e-5)
    assert done.active_after == pytest.approx(float(found.sum()), rel=0.02)
    assert done.scale == 1.0 and f"of {len(VOCAB)}" in done.line()


def test_rescaled_logits_have_unit_deviation() -> None:
    model = masked_lm("bert")
    reset_head(model)
    backbone = MaskedLanguageModel(model, tokenizer=make_tokenizer()).eval()
    done = calibrate_head(backbone, PARTS, active_share=0.1, rescale=True)
    vocabulary = backbone.vocabulary
    assert vocabulary is not None
    with torch.no_grad():
        vectors = backbone({"input_ids": PARTS[0].ids, "lengths": PARTS[0].lengths})["token_embeddings"]
        deviation = float((vectors @ vocabulary.weight.T).std())
    assert deviation == pytest.approx(1.0, rel=1e-4)
    assert done.scale != 1.0


def test_checkpoints_with_and_without_head(tmp_path: Path) -> None:
    with_head = splade_stack(save_checkpoint(tmp_path / "head"), LoadOptions())
    assert not with_head[0].fresh  # type: ignore[attr-defined]
    encoder = save_checkpoint(tmp_path / "encoder", with_head=False)
    with pytest.raises(ConfigError, match="model=splade"):
        splade_stack(encoder, LoadOptions())
    assert splade_stack(encoder, LoadOptions(), fresh_head=True)[0].fresh  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", [f for f in MASKED if f != "deberta"])
def test_only_weights_of_the_head_tell_whether_there_is_one(tmp_path: Path, family: str) -> None:
    """Below the head nothing may be missing: it would be random."""
    folder = save_checkpoint(tmp_path / "whole", family)
    config = load_config(folder)
    assert load_masked_lm(folder, config=config)[1]
    assert not load_masked_lm(save_checkpoint(tmp_path / "encoder", family, with_head=False), config=config)[1]
    weights = load_file(folder / "model.safetensors")
    prefix = masked_lm(family).base_model_prefix
    base = sorted(name for name in weights if name.startswith(f"{prefix}.") and "norm" in name.lower())
    assert len(base) >= 4
    save_file({name: value for name, value in weights.items() if name not in base}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ConfigError, match=rf"the weights lack {base[0]}, .* and {len(base) - 3} more, which .*ForMaskedLM needs below its head"
    ):
        load_masked_lm(folder, config=config)


def test_a_head_that_is_not_tied_cannot_be_made() -> None:
    model = masked_lm("bert")
    layer = model.get_output_embeddings()
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
    with pytest.raises(ConfigError, match="tied to its word embeddings"):
        reset_head(model)


def test_a_head_that_cannot_pass_vectors_on_is_refused() -> None:
    with pytest.raises(ConfigError, match="keep the activation linear"):
        reset_head(masked_lm("modernbert"))


def test_a_head_without_bias_cannot_be_calibrated() -> None:
    model = masked_lm("modernbert", decoder_bias=False)
    backbone = MaskedLanguageModel(model, tokenizer=make_tokenizer())
    with pytest.raises(ConfigError, match="needs a bias"):
        calibrate_head(backbone, PARTS, active_share=0.1, rescale=False)


def test_a_model_that_lies_in_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    """Old sentence-transformers directories put the first module into a folder, too."""
    save_checkpoint(tmp_path / "0_Transformer")
    entries = [
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    backbone = splade_stack(tmp_path, LoadOptions())[0]
    assert isinstance(backbone, MaskedLanguageModel) and not backbone.fresh and backbone.vocabulary is not None


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in (x for x in tree_leaves(out) if isinstance(x, torch.Tensor)):
            self.entries = max(self.entries, tensor.numel())
        return out


def test_no_logits_of_all_tokens_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles smaller than the sample give the same bias: the deviation and the maxima are put together from them."""
    part = make_tokens([20] * 20, seed=5)
    biases = []
    for size, tokens in ((1 << 19, 512), (256, 16)):
        monkeypatch.setitem(splade_tiles.TILE, "cpu", size)
        monkeypatch.setattr(splade_tiles, "TOKENS", tokens)
        model = masked_lm("bert")
        reset_head(model)
        backbone = MaskedLanguageModel(model, tokenizer=make_tokenizer()).eval()
        with Largest() as largest:
            done = calibrate_head(backbone, [part], active_share=0.1, rescale=True)
        assert (largest.entries >= part.num_tokens * len(VOCAB)) == (size > 256)
        assert done.scale != 1.0 and backbone.vocabulary is not None and backbone.vocabulary.bias is not None
        biases.append(backbone.vocabulary.bias.detach().clone())
    assert float(biases[0].abs().max()) > 0.1
    torch.testing.assert_close(biases[0], biases[1], rtol=1e-4, atol=1e-4)


class Texts:
    """Sides asked for, with a sample of either."""

    def __init__(self, *sides: str) -> None:
        self.asked: list[tuple[str, int]] = []
        self._sides = sides

    def sides(self) -> tuple[str, ...]:
        return self._sides

    def tokens(self, side: str, limit: int, per_part: int = 32) -> list[Tokens]:
        self.asked.append((side, limit))
        return [make_tokens([20, 9], seed=limit)]

    def pairs(self, limit: int) -> None:
        return None


def test_only_texts_that_go_through_the_network_calibrate_it(tmp_path: Path) -> None:
    checkpoint = str(save_checkpoint(tmp_path))
    both, one = [("document", 150), ("query", 150)], [("document", 300)]
    for cls, present, sides in (
        (SpladeModel, ("document", "query"), both),
        (SpladeModel, ("document",), one),
        (InferenceFreeSpladeModel, ("document", "query"), one),
        (InferenceFreeSpladeModel, ("query",), [("query", 300)]),
    ):
        component = cls(checkpoint, calibrate=True)
        texts = Texts(*present)
        assert component.prepare_head(component.build(), texts)[0].startswith("calibrated")  # type: ignore[arg-type]
        assert texts.asked == sides
