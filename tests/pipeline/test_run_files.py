"""Nothing in a run directory runs code when it is loaded."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.pipeline.conftest import Command

#: What the pickles inside torch's files may name: tensors, their storages and ordered dicts. torch.load(weights_only=True) knows no others.
HARMLESS = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict", "torch._utils _rebuild_parameter"}
PICKLE = tuple(b"\x80" + bytes([protocol]) for protocol in (2, 3, 4, 5))


def globals_of(data: bytes) -> Iterator[str]:
    """Names that a pickle would import, the older and the newer way."""
    words: list[str] = []
    for operation, argument, _ in pickletools.genops(data):
        if operation.name == "GLOBAL":
            yield str(argument)
        elif operation.name == "STACK_GLOBAL":
            yield " ".join(words[-2:])
        elif isinstance(argument, str):
            words.append(argument)


def pickles(path: Path) -> Iterator[bytes]:
    """Every pickle in a file: the file itself, or members of an archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = [archive.read(name) for name in archive.namelist() if name.split("/")[-2:-1] != ["data"]]
        yield from (m for m in members if m.startswith(PICKLE))
    elif (data := path.read_bytes()).startswith(PICKLE):
        yield data


def named(folder: Path) -> dict[str, set[str]]:
    """File -> what its pickles would import."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {
        p.relative_to(folder).as_posix(): {name for data in found for name in globals_of(data)}
        for p in files
        if (found := list(pickles(p)))
    }


def test_a_run_writes_no_pickle_that_runs_code(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("trainer.max_steps=2", "trainer.save_steps=1", "trainer.ema_decay=0.9", "+evaluator.dev.name=information_retrieval")
    assert stpipe("train", "run.dir=out", *options) == 0, capsys.readouterr().err
    found = named(Path("out"))
    assert {Path(name).name for name in found} == {"module.pt", "optimizer.pt", "scaler.pt", "ema.pt"}, "tensors of checkpoints alone"
    for name, imports in found.items():
        harmless = {i for i in imports if i in HARMLESS or (i.startswith("torch ") and i.endswith("Storage"))}
        assert imports == harmless, name
        torch.load(Path("out") / name, weights_only=True)
    assert any(imports for imports in found.values())


def test_the_scan_sees_code(tmp_path: Path) -> None:
    torch.save({"w": Path("x"), "f": print}, tmp_path / "bad.pt")
    buffer = io.BytesIO()
    torch.save(torch.zeros(2), buffer)
    (tmp_path / "good.pt").write_bytes(buffer.getvalue())
    found = named(tmp_path)
    assert "pathlib PosixPath" in found["bad.pt"] and any("print" in name for name in found["bad.pt"])
    assert found["good.pt"] <= HARMLESS | {"torch FloatStorage"}
