from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from stpipe.cli.completion import complete
from stpipe.cli.main import main


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tr", ["train ", "track "]),
        ("train +rec", ["+recipe="]),
        ("train +recipe=cos", ["+recipe=cosent_stsb "]),
        ("train +profile=", ["+profile=offline ", "+profile=smoke "]),
        ("train scheduler=", ["scheduler=constant ", "scheduler=cosine ", "scheduler=linear "]),
        ("train trainer.prec", ["trainer.precision="]),
        ("train trainer.precision=b", ["trainer.precision=bf16 "]),
        ("train trainer.drop_last=", ["trainer.drop_last=true ", "trainer.drop_last=false "]),
        ("train loss=cosent loss.sc", ["loss.scale="]),
        ("train loss=cosent loss.dir", []),
        ("train optimizer", ["optimizer.", "optimizer="]),
        ("train dataset.checks.ov", ["dataset.checks.overlap="]),
        ("train --dry", ["--dry-run "]),
        ("list lo", ["loss "]),
        ("doctor x", []),
    ],
)
def test_completions(line, expected):
    *before, word = line.split(" ")
    assert complete(before, word) == expected


def test_query_replaces_what_the_shell_would(monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", "stpipe train trainer.precision=b")
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out == "bf16 \n"
    assert main(["-sc", "query=fish"]) == 0
    assert capsys.readouterr().out == "trainer.precision=bf16 \n"


def test_wrong_shell(capsys):
    assert main(["-sc", "install=bsh"]) == 2
    assert "Did you mean 'bash'?" in capsys.readouterr().err
    assert main(["-sc"]) == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_installed_in_a_real_bash(tmp_path):
    command = tmp_path / "stpipe"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m stpipe "$@"\n')
    command.chmod(0o755)
    script = """
eval "$(stpipe -sc install=bash)"
COMP_LINE='stpipe train scheduler=co' COMP_POINT=25 COMP_WORDS=(stpipe train scheduler = co) COMP_CWORD=4
_stpipe
printf '%s|' "${COMPREPLY[@]}"
"""
    done = subprocess.run(["bash", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=60)
    assert done.stdout == "constant |cosine |", done.stderr
