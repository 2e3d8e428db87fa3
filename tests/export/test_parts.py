"""The parts of verification that need no export: limits, drift, lengths, rows, embeddings in fewer bits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stpipe.config.errors import ConfigError
from stpipe.core.rows import Rows
from stpipe.export import EmbeddingsExport, OnnxExport, OnnxInt8Export, SafetensorsExport, StaticExport, export_all, verification_rows
from stpipe.export.base import ToleranceSection, problems_of
from stpipe.export.drift import drift, drift_of_similarities, overall
from stpipe.export.probes import probes, spread
from stpipe.export.run import RejectedError
from stpipe.export.source import pairs_of, texts_of
from stpipe.models import SentenceTransformer
from stpipe.models.quantize import quantize
from tests.export.small import cross_encoder, dense, source


def test_limits_follow_precision_and_kind() -> None:
    assert OnnxExport().limits(scores=False) == {"max_abs": 1e-5, "metric_drop": 0.02}
    assert OnnxExport(optimize="O4").limits(scores=True) == {"max_abs": 2e-3, "metric_drop": 0.02}
    assert OnnxInt8Export().limits(scores=False) == {"mean_cosine": 0.95, "metric_drop": 0.02}
    assert OnnxInt8Export().limits(scores=True) == {"spearman": 0.98, "metric_drop": 0.02}
    own = ToleranceSection(max_abs=0.5, mean_cosine=0.9, metric_drop=0.0)
    assert OnnxInt8Export(tolerance=own).limits(scores=False) == {"max_abs": 0.5, "mean_cosine": 0.9, "metric_drop": 0.0}


def test_problems_name_the_limit() -> None:
    limits = {"max_abs": 1e-5, "mean_cosine": 0.95, "metric_drop": 0.02}
    assert problems_of({"max_abs": 1e-6, "mean_cosine": 0.96, "metric_drop": -0.5}, limits, finite=True) == []
    found = problems_of({"max_abs": float("nan"), "mean_cosine": 0.9, "metric_drop": 0.03}, limits, finite=False)
    assert len(found) == 4
    assert "NaN" in found[0] and all(f"tolerance.{name}" in text for name, text in zip(limits, found[1:], strict=True))


def test_drift_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(7, 5, generator=generator) * 3, torch.randn(7, 5, generator=generator) * 3
    found = drift(a, b, scores=False)
    largest = max(abs(float(a[i, j]) - float(b[i, j])) for i in range(7) for j in range(5)) / max(abs(float(x)) for x in a.flatten())
    cosines = [float((a[i].double() @ b[i].double()) / a[i].double().norm() / b[i].double().norm()) for i in range(7)]
    assert found.max_abs == pytest.approx(largest, rel=1e-12)
    assert found.mean_cosine == pytest.approx(sum(cosines) / 7, rel=1e-12) and found.min_cosine == pytest.approx(min(cosines), rel=1e-12)
    assert drift(a.to_sparse(), b.to_sparse(), scores=False) == found
    assert drift(a * 0.01, b * 0.01, scores=False).max_abs == pytest.approx(largest * float(a.abs().max()) * 0.01, rel=1e-5)


def test_drift_of_what_is_broken() -> None:
    a = torch.ones(4, 3)
    for bad in (a.clone().fill_(float("nan")), torch.ones(4, 2)):
        found = drift(a, bad, scores=False)
        assert found.max_abs == float("inf") and found.mean_cosine == 0.0
    zeros = drift(torch.zeros(2, 3), torch.zeros(2, 3), scores=False)
    assert zeros.max_abs == 0.0 and zeros.mean_cosine == 1.0
    assert drift(torch.zeros(2, 3), torch.ones(2, 3), scores=False).mean_cosine == 0.0
    assert drift(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.5, 0.5]), scores=True).spearman == 0.0
    assert drift(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 9.0]), scores=True).spearman == pytest.approx(1.0)


def test_similarities_of_another_model() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(9, 6, generator=generator)
    turned = a @ torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    assert drift_of_similarities(a, turned * 3).spearman == pytest.approx(1.0)
    other = drift_of_similarities(a, torch.randn(9, 4, generator=generator))
    assert other.spearman is not None and abs(other.spearman) < 0.9 and other.mean_cosine is None and other.as_json()["max_abs"] is None
    assert drift_of_similarities(a, torch.full((9, 4), float("nan"))).finite is False


def test_the_worst_counts() -> None:
    close, far = drift(torch.eye(3), torch.eye(3), scores=False), drift(torch.eye(2), -torch.eye(2), scores=False)
    found = overall([close, far])
    assert found.max_abs == 2.0 and found.min_cosine == -1.0 and found.inputs == 5
    assert found.mean_cosine == pytest.approx((3 - 2) / 5)


@pytest.mark.parametrize(("longest", "count"), [(65, 64), (515, 64), (5, 64), (300, 8)])
def test_lengths_from_one_to_the_longest(longest: int, count: int) -> None:
    found = spread(longest, count)
    assert len(found) == count and found[0] == 1 and found[-1] == longest
    assert found == sorted(found)
    if longest > count:
        assert len(set(found)) == count


def test_probes_have_the_lengths_and_all_prompts(tmp_path: Path) -> None:
    origin = source(tmp_path / "model", dense())
    found = probes(origin, count=32)
    assert [probe.prompt for probe in found] == ["", "query : "]
    for probe in found:
        lengths = [len(ids) for ids in origin.model.tokenizer(list(probe.inputs), add_special_tokens=False, truncation=False)["input_ids"]]
        assert tuple(lengths) == probe.lengths and {1, 2, 65} <= set(lengths)
        assert lengths != sorted(lengths)  # batches mix short and long


def test_probes_of_pairs(tmp_path: Path) -> None:
    origin = source(tmp_path / "model", cross_encoder())
    (probe,) = probes(origin, count=24)
    tokenizer = origin.model.tokenizer
    for (first, second), length in zip(probe.inputs, probe.lengths, strict=True):
        both = [len(tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"]) for text in (first, second)]
        assert min(both) >= 1 and sum(both) in (length, length + 1)


def test_texts_and_pairs_of_rows() -> None:
    rows = [Rows({"query": ["a", "b"], "documents": [["c", "d"], ["c"]]}, [[1, 0], [1]], "query-documents", {})]
    assert texts_of(rows) == ["a", "b", "c", "d"]
    assert pairs_of(rows) == [("a", "c"), ("a", "d"), ("b", "c")]


def load(file: Path) -> Any:
    """The code beside an export as a module."""
    spec = importlib.util.spec_from_file_location("exported_run", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("form", ["int8", "uint8", "binary", "ubinary"])
def test_embeddings_in_fewer_bits(form: Any, tmp_path: Path) -> None:
    origin = source(tmp_path / "model", dense())
    export = EmbeddingsExport(form=form, tolerance=ToleranceSection(mean_cosine=0.5, metric_drop=1.0))
    record = export_all(origin, {"small": export}, tmp_path / "exports", notify=lambda line: None)["small"]
    assert record["passed"] and record["runs_with"].keys() == {"numpy"}
    assert record["size"] == {"model": 128_000_000, "export": 32_000_000 if form.endswith("int8") else 4_000_000}
    folder = tmp_path / "exports" / "small"
    code, ranges = load(folder / "run.py"), np.load(folder / "ranges.npy")
    model: Any = origin.model
    sample = np.asarray(model.encode_document(list(origin.texts)))
    np.testing.assert_allclose(ranges, np.stack([sample.min(0), sample.max(0)]), atol=1e-6)
    embeddings = np.asarray(model.encode(["w1 w2", "b a", "w5"]))
    small = code.quantize(embeddings)
    assert small.dtype == (np.int8 if form in ("int8", "binary") else np.uint8)
    np.testing.assert_array_equal(small, quantize(embeddings, precision=form, ranges=ranges))
    restored = code.restore(small)
    if form.endswith("int8"):
        assert np.abs(restored - embeddings).max() <= (ranges[1] - ranges[0]).max() / 255 + np.maximum(
            ranges[0] - embeddings, embeddings - ranges[1]
        ).max(initial=0)
    else:
        np.testing.assert_array_equal(restored, np.where(embeddings > 0, 1.0, -1.0))


def test_embeddings_too_coarse_are_rejected(tmp_path: Path) -> None:
    export = EmbeddingsExport(form="int8", tolerance=ToleranceSection(mean_cosine=0.999999999))
    with pytest.raises(RejectedError, match="below tolerance.mean_cosine"):
        export_all(source(tmp_path / "model", dense()), {"small": export}, tmp_path / "exports", notify=lambda line: None)
    assert (tmp_path / "exports" / "rejected" / "small" / "ranges.npy").exists()


def test_other_kinds_of_models_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="export.small: 'embeddings' is for dense models, not for cross_encoder ones"):
        export_all(source(tmp_path / "model", cross_encoder()), {"small": EmbeddingsExport()}, tmp_path / "exports")
    assert not (tmp_path / "exports").exists()


def test_rows_of_a_directory_without_exports_and_with_damaged_ones(tmp_path: Path) -> None:
    assert verification_rows(tmp_path) == []
    for name, text in (("half", "{"), ("old", json.dumps({"name": "old"})), (".writing-x", "{}")):
        (tmp_path / "exports" / name).mkdir(parents=True)
        (tmp_path / "exports" / name / "verification.json").write_text(text)
    assert verification_rows(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_safetensors(dtype: Any, tmp_path: Path) -> None:
    record = export_all(
        source(tmp_path / "model", dense()), {"st": SafetensorsExport(dtype=dtype)}, tmp_path / "exports", notify=lambda line: None
    )["st"]
    assert record["passed"]
    half = record["size"]["export"] / record["size"]["model"]
    assert half == pytest.approx(0.5, abs=0.1)
    assert record["drift"]["overall"]["max_abs"] > 1e-5


@pytest.mark.slow
def test_static_embedding_distilled(tmp_path: Path) -> None:
    export = StaticExport(dimensions=8, probes=16, tolerance=ToleranceSection(metric_drop=1.0, spearman=-1.0))
    record = export_all(source(tmp_path / "model", dense()), {"static": export}, tmp_path / "exports", notify=lambda line: None)["static"]
    assert record["passed"] and record["precision"] == "distilled"
    assert record["drift"]["overall"]["max_abs"] is None and record["drift"]["overall"]["spearman"] is not None
    assert record["metric"]["export"] > 0
    model = SentenceTransformer(tmp_path / "exports" / "static", device="cpu")
    assert model.encode(["w1 w2"]).shape == (1, 8)
    assert StaticExport().limits(scores=False) == {"metric_drop": 0.25}
