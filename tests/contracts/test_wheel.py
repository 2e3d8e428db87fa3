"""The built wheel, installed into an empty environment, does in an empty folder what README.md says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import textwrap
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Put before the installed command: the README's commands as they stand, but shrunk to seconds.
SMOKE = """\
#!{python}
import subprocess
import sys

arguments = sys.argv[1:]
if "+profile=offline" in arguments:
    arguments[arguments.index("+profile=offline")] = "+profile=[offline,smoke]"
elif arguments[:1] == ["train"]:
    arguments.append("+profile=smoke")
print("+ stpipe", *arguments, flush=True)
sys.exit(subprocess.call([{stpipe!r}, *arguments]))
"""


def readme_blocks() -> list[tuple[str, str]]:
    """(language, text) of the README's blocks that are meant to be run, in order. `console` blocks are transcripts."""
    found = re.findall(r"^```(bash|python|yaml)(?: title=\S+)?\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    return [(language, text) for language, text in found if language != "yaml"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables in which `stpipe` and `python` are those of a new virtual environment that holds the wheel.

    The dependencies are taken from the running environment through a .pth file: what is tested is the wheel, not pip. An
    editable stpipe there stays unseen, since .pth files of folders that a .pth file names are not read.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    shims = tmp_path_factory.mktemp("shims")
    shim = shims / "stpipe"
    shim.write_text(SMOKE.format(python=python, stpipe=str(folder / "bin" / "stpipe")))
    shim.chmod(0o755)
    variables = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"} and not k.startswith("PYTEST")}
    return {**variables, "PATH": os.pathsep.join([str(shims), str(folder / "bin"), os.environ["PATH"]])}


def test_wheel_holds_the_yaml(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for folder, packaged in (("configs", "stpipe/_configs"), ("recipes", "stpipe/_recipes")):
        sources = {f"{packaged}/{p.relative_to(ROOT / folder).as_posix()}" for p in (ROOT / folder).rglob("*.yaml")}
        assert sources, f"{folder}/ is empty"
        assert sources <= set(names), f"not in the wheel: {sorted(sources - set(names))}"
    assert "stpipe/config/schema.json" in names
    stray = [n for n in names if not n.startswith(("stpipe/", "stpipe-", "hydra_plugins/"))]
    assert not stray, f"would litter site-packages: {stray}"


def test_readme_commands_run_in_an_empty_folder(environment: dict[str, str], tmp_path: Path) -> None:
    blocks = readme_blocks()
    trained = sum(text.count("stpipe train") for language, text in blocks if language == "bash")
    assert trained >= 2, "the README shows no training"
    assert any(language == "python" for language, _ in blocks), "the README shows no Python"
    where = "import stpipe, sys; assert stpipe.__file__.startswith(sys.prefix), stpipe.__file__"
    subprocess.run(["python", "-c", where], check=True, env=environment, cwd=tmp_path)
    for language, text in blocks:
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else ["python", "-c", text]
        done = subprocess.run(command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        output = (done.stdout + done.stderr)[-4000:]
        assert done.returncode == 0, f"exit code {done.returncode} of this block of README.md:\n{text}\n{textwrap.indent(output, '    ')}"
