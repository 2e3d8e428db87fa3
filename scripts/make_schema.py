"""Write stpipe/config/schema.json from the registries. Run it after any change of a configurable field; its diff is the
change of the user-facing surface. `--check` only says whether the file is current (exit 1 when it is not)."""

from __future__ import annotations

import sys

from stpipe.config.builtin import load_components
from stpipe.config.locations import schema_file
from stpipe.config.schema import build_schema, dump_schema


def main(argv: list[str]) -> int:
    load_components()
    text = dump_schema(build_schema())
    path = schema_file()
    if "--check" in argv:
        current = path.is_file() and path.read_text(encoding="utf-8") == text
        print(f"{path} is {'current' if current else 'stale: run scripts/make_schema.py'}")
        return 0 if current else 1
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path} ({len(text.splitlines())} lines)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
