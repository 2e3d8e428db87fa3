"""Bytes with a few changes; needs nothing of stpipe."""

from __future__ import annotations

import random


def damaged(data: bytes, seed: int) -> bytes:
    """The same bytes with a few changes of the kinds that disks, editors and enemies make."""
    draw, out = random.Random(seed), bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(out) + 1)
        kind = draw.randrange(6)
        if kind == 0 and out:
            out[min(at, len(out) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del out[at : at + draw.randint(1, 40)]
        elif kind == 2:
            out[at:at] = draw.choice(
                (b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b'"', b"{", b"[" * 3000, b"\r", b"\n\n", b"1e999", b"\xef\xbb\xbf")
            )
        elif kind == 3:
            del out[at:]
        elif kind == 4:
            out[at:at] = out[: draw.randint(1, 60)]
        else:
            out[at:at] = draw.randbytes(draw.randint(1, 20))
    return bytes(out)
