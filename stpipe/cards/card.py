"""Entry point of the model card."""

from __future__ import annotations

from pathlib import Path

from stpipe.cards.content import card_text
from stpipe.cards.model_files import read_model
from stpipe.reports.atomic import write_text
from stpipe.reports.run_record import read_run


def write_card(run_dir: Path, model_dir: Path) -> Path:
    """Write the model card of a run as README.md into `model_dir` and return its path.

    Everything in it comes from the files of the two directories, so that it can be built again at any time, without
    network and without loading weights. The same files give the same bytes.

    Raises:
        ConfigError: `run_dir` is no directory, or holds no run at all.
    """
    return write_text(model_dir / "README.md", card_text(read_run(run_dir), read_model(model_dir)))
