"""Quantise embeddings with numpy and nothing else; the ranges beside this file come from real texts.

from run import quantize, restore
small = quantize(embeddings)          int8 or uint8 (N, D), or (N, D / 8) bytes of signs
close = restore(small)                float32 (N, D); of signs: 1 and -1
"""

import json
import os
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def facts(folder=HERE):
    """What embeddings.json says: precision and width."""
    with open(os.path.join(folder, "embeddings.json"), encoding="utf-8") as file:
        return json.load(file)


def limits(folder=HERE):
    """Lowest value and step of each dimension (D,)."""
    low, high = np.load(os.path.join(folder, "ranges.npy")).astype(np.float32)
    step = (high - low) / 255
    return low, np.where(step == 0, 1, step)


def quantize(embeddings, folder=HERE):
    """Float embeddings (N, D) in fewer bits; values beyond the limits of a dimension become its limits."""
    precision = facts(folder)["precision"]
    embeddings = np.asarray(embeddings)
    if precision in ("binary", "ubinary"):
        bits = np.packbits(embeddings > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    low, step = limits(folder)
    levels = np.clip(np.floor((embeddings - low) / step), 0, 255)
    return levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)


def restore(quantized, folder=HERE):
    """About the embeddings that were quantised: the middle of each step; of signs 1 and -1."""
    found = facts(folder)
    if found["precision"] in ("binary", "ubinary"):
        shifted = quantized if found["precision"] == "ubinary" else (quantized.astype(np.int16) + 128).astype(np.uint8)
        return np.unpackbits(shifted, axis=-1)[:, : found["width"]].astype(np.float32) * 2 - 1
    low, step = limits(folder)
    levels = quantized.astype(np.float32) + (0 if found["precision"] == "uint8" else 128)
    return (low + (levels + 0.5) * step).astype(np.float32)


def main(arguments):
    """Serve: embeddings from the file that a request names are quantised and restored into another."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "facts":
            answer = {"ok": True, "modules": {"numpy": np.__version__}}
        else:
            small = quantize(np.load(request["embeddings"]))
            np.savez(request["into"], values=restore(small), bytes_each=np.array(small[0].nbytes if len(small) else 0))
            answer = {"ok": True}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
