"""Names as names of files: the one place where a name that somebody chose, or that data or a hub brought, becomes a part of a path.

`file_name` gives one part of a path for any text: never a separator, never a way up, the same for the same text, different for
different ones, valid on Linux, macOS and Windows. What already is such a name stays as it is. Names in a configuration are not turned
into others but refused where they would be (`name_problem`), because somebody will look for them.
"""

from __future__ import annotations

import hashlib
import unicodedata

#: Bytes of the longest name; file systems take 255, and what is written aside puts something in front and behind.
LONGEST = 120
FORBIDDEN = frozenset('/\\:*?"<>|')
#: Devices of Windows, which are not files whatever comes after a dot.
RESERVED = frozenset({"con", "prn", "aux", "nul", "conin$", "conout$", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))})
#: Of a name that stands for another one: its characters that are kept, hexadecimal digits of its hash.
READABLE, DIGITS = 40, 12


def name_problem(name: str) -> str | None:
    """Why a text cannot be the name of a file everywhere; None when it can."""
    if not name:
        return "is empty"
    if any(c in FORBIDDEN for c in name):
        return 'holds one of / \\ : * ? " < > |'
    if any(unicodedata.category(c)[0] == "C" for c in name):  # control, format, surrogate, unassigned
        return "holds a character that cannot be shown"
    if name[0] in ".- ~" or name[-1] in ". ":
        return "begins with '.', '-', '~' or a space, or ends with '.' or a space"
    if name.split(".")[0].rstrip().lower() in RESERVED:
        return "is the name of a device under Windows"
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    return None


def file_name(name: str) -> str:
    """One part of a path that stands for a text: the text itself where it can be one, else its letters and digits, and its hash.

    Raises nothing, whatever the text.
    """
    if name_problem(name) is None:
        return name
    data = name.encode("utf-8", "surrogatepass")
    readable = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in name[:READABLE]).strip("-_")
    return f"{readable or 'name'}-{hashlib.sha256(data).hexdigest()[:DIGITS]}"


def same_file(name: str) -> str:
    """What names have in common that some file systems take for one: letters in another case, or composed in another way."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
