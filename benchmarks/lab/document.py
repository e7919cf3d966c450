"""Where a lab's tables go in its document."""

from __future__ import annotations

import re
from pathlib import Path


def insert(document: Path, tables: dict[str, str], *, shared: bool = False) -> None:
    """Put tables between `<!-- table NAME -->` and `<!-- end -->` of a document.

    Args:
        document: Markdown.
        tables: by name.
        shared: tables of other commands stand in it too, and stay.

    Raises:
        ValueError: the document asks for a table that there is not.
    """
    text = document.read_text(encoding="utf-8")

    def fill(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in tables and shared:
            return found.group(0)
        if name not in tables:
            raise ValueError(f"{document.name} asks for a table {name!r}; there are {', '.join(tables)}")
        return f"<!-- table {name} -->\n\n{tables[name]}\n\n<!-- end -->"

    document.write_text(re.sub(r"<!-- table (\S+) -->.*?<!-- end -->", fill, text, flags=re.S), encoding="utf-8")
