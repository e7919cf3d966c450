"""The table of other packs in docs/compatibility.md, where only some of them are tried again."""

from __future__ import annotations

from devtools.packs import AGAIN, BEGIN, DOCUMENT, END, HEAD, renewed

COMMIT = "0123456789ab"
OLD = f"""
Monday, all:

{HEAD}
| a/one | 000000000 | X | sdxl | without AT-EDM: fails |
| a/one | 000000000 | Y | sdxl | works |
| b/two | 000000000 | Z | sdxl | works, in either order |
"""


def found(pack: str, trial: str, kind: str) -> dict[str, str]:
    return {"pack": pack, "commit": COMMIT, "trial": trial, "kind": kind, "alone": "samples", "after it": "works"}


def test_rows_of_packs_that_were_not_tried_again_stay() -> None:
    text = renewed(OLD, [found("a/one", "X", "sdxl"), found("a/one", "X", "sd15")], "Tuesday")
    assert text.splitlines() == [
        "Monday, all:",
        "",
        "Tried again since: a/one (Tuesday).",
        "",
        *HEAD.splitlines(),
        "| a/one | 012345678 | X | sdxl, sd15 | works, in either order |",
        "| b/two | 000000000 | Z | sdxl | works, in either order |",
    ]


def test_each_pack_has_the_day_that_it_was_last_tried_on() -> None:
    text = renewed(OLD, [found("a/one", "X", "sdxl")], "Tuesday")
    text = renewed(text, [found("b/two", "Z", "sdxl"), found("c/new", "W", "sdxl")], "Wednesday")
    text = renewed(text, [found("a/one", "X", "sdxl")], "Thursday")
    (line,) = (line for line in text.splitlines() if line.startswith(AGAIN))
    assert line == "Tried again since: b/two (Wednesday); c/new (Wednesday); a/one (Thursday)."
    assert [row.split()[1] for row in text.splitlines()[-3:]] == ["a/one", "b/two", "c/new"]


def test_the_document_is_such_that_it_can_be_renewed() -> None:
    block = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    text = renewed(block, [found("c/new", "W", "sdxl")], "Tuesday")
    assert set(block.strip().splitlines()) - set(text.splitlines()) <= {
        line for line in block.splitlines() if line.startswith(AGAIN)
    }
