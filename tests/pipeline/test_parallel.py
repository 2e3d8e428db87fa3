"""A student of several languages: files of parallel sentences, the teacher's vectors, weights, both evaluators."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer as Peer

from stpipe.config.sections import DatasetSection, SourceSection, TeacherSection
from stpipe.core.tokenize import RoleTokenizer
from stpipe.data.prepare import prepare
from stpipe.models.tokenizer import load_tokenizer
from tests.pipeline.conftest import Command, word
from tests.pipeline.teachers import dense_teacher, text

pytestmark = pytest.mark.usefixtures("fresh_cache")


def lines(count: int, first: int) -> list[str]:
    """A source, two translations, the second of which is sometimes missing."""
    return [
        f"{text(first + i, 3)}\t{text(first + 2 * i + 1, 4)}\t{'' if i % 3 == 0 else text(first + 5 * i + 2, 2 + i % 5)}"
        for i in range(count)
    ]


def write(path: Path, count: int, first: int) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(lines(count, first)) + "\n")
    return path


def test_left_out_lines_are_in_the_scan_and_held_out_sources_are_not_trained_on(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("\n".join([*lines(30, 0), f"{word(1)} {'x' * 90}\t{word(2)}"]) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(tiny_model)
    section = DatasetSection(train=f"parallel://{path}?max_characters=80", eval_rows=10)
    found = prepare(section, tokenizers=lambda role, routes: RoleTokenizer(tokenizer))
    scan = found.scan.as_dict()["sources"]["default"]["train"]
    assert scan["format"] == "pair" and "1 rows of lines with a text of more than 80 characters, dropped" in str(scan["findings"])
    train, held = ({*found_rows.rows().columns["anchor"]} for found_rows in (found.train["default"], found.eval["default"]))
    assert train and held and not train & held


@pytest.mark.slow
def test_a_student_of_two_weighted_files(stpipe: Command, tmp_path: Path) -> None:
    teacher = dense_teacher(tmp_path / "teacher")
    de, es = write(tmp_path / "en-de.tsv.gz", 40, 0), write(tmp_path / "en-es.tsv.gz", 12, 31)
    sources = ", ".join(
        f"{name}: {{train: 'parallel://{path}?max_characters=128', weight: {weight}, max_rows: {rows}}}"
        for name, path, weight, rows in (("de", de, 3.0, 40), ("es", es, 1.0, 100))
    )
    overrides = [
        f"dataset.sources={{{sources}}}",
        "dataset.train=null",
        f"dataset.teacher={{model: {teacher}, output: embeddings}}",
        "sampler.mixing=weighted",
        "evaluator={a: {name: mse, source: de}, b: {name: translation, source: de}, c: {name: translation, source: es}}",
        "trainer.best_metric=a_negative_mse",
        "trainer.num_epochs=6",
        "run.dir=run",
    ]
    assert stpipe("train", *overrides) == 0
    metrics = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [r["value"] for r in metrics if r["name"] == "loss"]
    assert len(losses) >= 4 and losses[-1] < 0.8 * losses[0], losses
    plan = json.loads(Path("run/plan.json").read_text(encoding="utf-8"))
    assert plan["sources"]["de"]["rows"] == 40 and {s["format"] for s in plan["sources"].values()} == {"pair-vector"}
    found = {n: json.loads(Path(f"run/evaluation/{n}/metrics.json").read_text(encoding="utf-8"))["systems"] for n in ("a", "b", "c")}
    assert found["a"]["after"]["negative_mse"] > 0.9 * found["a"]["before"]["negative_mse"], "nearer to the teacher"
    for name in ("b", "c"):  # of few rows, so it need not rise
        values = found[name]["after"]
        assert (
            values["mean_accuracy"] == pytest.approx((values["src2trg_accuracy"] + values["trg2src_accuracy"]) / 2)
            and 0 < values["mean_accuracy"] < 1
        )
    readme = Path("run/model/README.md").read_text(encoding="utf-8")
    assert "Translation" in readme and "parallel://en-de.tsv.gz" in readme and str(tmp_path) not in readme


def test_every_text_of_a_row_has_the_vector_of_its_source(tmp_path: Path, tiny_model: Path) -> None:
    """What the documentation trains on: the source and each translation with what the teacher makes of the source."""
    from rich.console import Console

    from stpipe.config.sections import RootConfig, TrainerSection
    from stpipe.pipeline.teaching import Teaching

    path, teacher = tmp_path / "a.tsv", dense_teacher(tmp_path / "teacher")
    path.write_text("\n".join(lines(8, 3)) + "\n", encoding="utf-8")
    section = TeacherSection(str(teacher), output="embeddings")
    dataset = DatasetSection(sources={"x": SourceSection(train=f"parallel://{path}", teacher=section, eval_rows=0)})
    root = RootConfig(model=None, dataset=dataset, trainer=TrainerSection(device="cpu"))
    tokenizer = load_tokenizer(tiny_model)
    teach = Teaching(root, Console(quiet=True))
    found = prepare(dataset, tokenizers=lambda role, routes: RoleTokenizer(tokenizer), teach=teach).train["x"]
    sources = [line.split("\t")[0] for line in lines(8, 3) for other in line.split("\t")[1:] if other]
    assert list(found.rows().columns["anchor"]) == sources and len(set(sources)) == 8 < len(sources)
    expected = Peer(str(teacher), device="cpu").encode(sources)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found.batch(np.arange(len(sources))).targets.vectors["*"].numpy(), expected, atol=1e-5)
