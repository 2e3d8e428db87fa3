"""The command from Python: `stpipe.train(["+recipe=dense_quickstart", "+profile=offline"])`."""

from __future__ import annotations

from collections.abc import Sequence


def train(
    overrides: Sequence[str] = (),
    *,
    config_dir: str | None = None,
    from_dir: str | None = None,
    dry_run: bool = False,
    stage: str | None = None,
) -> int:
    """Run what `stpipe train` runs; returns its exit code when the run ended (0, 130), raises StpipeError otherwise.

    Args:
        overrides: as on the command line.
        config_dir: folder of your own config groups and recipes.
        from_dir: run directory to repeat.
        dry_run: print the plan, touch nothing.
        stage: run this stage alone (as `--stage`).

    Raises:
        StpipeError: its `exit_code` is what the command would return.
    """
    from stpipe.cli.train import going_on
    from stpipe.config.load import Loaded, load_config
    from stpipe.config.offline import go_offline
    from stpipe.launch.launch import Launch

    def compose() -> Loaded:
        loaded = load_config(going_on(overrides, stage), config_dir=config_dir, from_dir=from_dir)
        if loaded.values["offline"]:
            go_offline()
        return loaded

    with Launch() as launch:
        return launch.train(compose, dry_run=dry_run, stage=stage)
