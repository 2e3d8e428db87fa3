#!/usr/bin/env python
"""Feeds hostile data files and configurations to stpipe, many more than the tests do.

Each must be read or refused with an error of stpipe that names the file and, for a value, its row; nothing may hang, and nothing but whole
folders may be left in a cache. The first case that breaks this ends the run with a traceback and the smallest such case.

    python scripts/fuzz.py --examples 10000
    python scripts/fuzz.py --examples 500 --only data --seed 7
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Of all examples, so many hundredths go to each target: compositions cost a hundred times as much as the others.
SHARES = {"data": 55, "collections": 20, "yaml": 20, "commands": 5}


def main() -> int:
    """Returns 0 when nothing was found."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--examples", type=int, default=10_000, help="of all targets together (default: %(default)s)")
    flags.add_argument("--only", choices=sorted(SHARES), help="one target")
    flags.add_argument("--seed", type=int, help="repeat a run; without it each run tries other cases")
    args = flags.parse_args()
    sys.path.insert(0, str(ROOT))
    os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    seed = int(time.time()) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    for name in [args.only] if args.only else SHARES:
        count = args.examples if args.only else args.examples * SHARES[name] // 100
        began = time.monotonic()
        run(name, count, seed)
        print(f"{name}: {count:,} examples in {time.monotonic() - began:.0f} s, nothing found", flush=True)
    return 0


def run(name: str, examples: int, seed: int) -> None:
    """One target; those of configurations need no torch."""
    from tests.fuzz.limits import fuzz

    if name in ("yaml", "commands"):
        from tests.fuzz import configs

        check, cases = (configs.check_yaml, configs.yaml_texts()) if name == "yaml" else (configs.check_command, configs.commands())
    else:
        from tests.fuzz import data_files

        check, cases = (
            (data_files.check_file, data_files.files()) if name == "data" else (data_files.check_collection, data_files.collections())
        )
    fuzz(check, cases, examples, seed=seed)


if __name__ == "__main__":
    sys.exit(main())
