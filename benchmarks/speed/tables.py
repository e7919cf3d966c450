"""Writes the tables of README.md and benchmarks/README.md from the results, between their markers.

    python dev.py bench tables [--check]

A block lies between the comments `<!-- table: NAME -->` and `<!-- end of table -->`, and is made anew.
With `--check` nothing is written, and the exit code says whether the documents agree with the results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devtools.layout import ROOT

from ..measure import RESULTS
from ..printing import markdown, times

DOCUMENTS = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
GIB = 1024.0
TITLES = {"sdxl": "SDXL", "sd15": "SD 1.5", "sd3": "SD3-medium", "pixart": "PixArt-Sigma"}


def results(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """(file name without ending, content) of every result of a kind, by name."""
    files = sorted(RESULTS.glob(f"{kind}-*.json"), key=lambda path: (len(path.stem), path.stem))
    return [(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in files]


def machine_line(machine: dict[str, Any]) -> str:
    """What a table says of where it was measured."""
    parts = f"{machine['device']} ({machine['cpu_capability']})" if "cpu" in machine["torch"] else machine["device"]
    count = machine["threads"]
    threads = f", {count} thread{'s' * (count > 1)}" if "cpu" in machine["torch"] else ""
    return f"{parts}{threads}, torch {machine['torch']}"


def title(machine: dict[str, Any]) -> str:
    """The measured model as people call it."""
    return TITLES.get(machine["model"], machine["model"])


def speed() -> str:
    """AT-EDM alone: measured speed-up, and in brackets what FLOPs allow, one row per comparison."""
    rows = []
    for _, result in results("speed"):
        machine = result["machine"]
        own = [row for row in result["rows"] if row["contender"].startswith("AT-EDM, ")]
        for size in sorted({row["size"] for row in own}):
            cells = [f"{times(row['speed_up'])} ({times(row['ideal'])})" for row in own if row["size"] == size]
            batch = machine.get("batch", 1) * (2 if machine["cfg"] > 1 else 1)
            what = f"{title(machine)}, {size} px, {machine['dtype']}, {batch} in a batch"
            ranking = machine.get("ranking", "self-attention")
            rows.append([f"{what}, ranked by {ranking}, {machine_line(machine)}", *cells])
    return markdown(["where", "after the first layer", "inside the first layer", "at the block's start"], rows)


def beside() -> str:
    """Peers and stacks, every comparison that has them."""
    rows = []
    for _, result in results("speed"):
        if not any("+" in row["contender"] for row in result["rows"]):
            continue
        for row in result["rows"]:
            low, high = row["spread"]
            what = f"{title(result['machine'])}, {row['size']} px"
            rows.append([row["contender"], what, times(row["speed_up"]), f"{low:.2f} to {high:.2f}"])
    return markdown(["", "model", "speed-up", "min to max"], rows)


def memory() -> str:
    """Peak memory of sampling beyond the weights."""
    rows = [
        [row["contender"], f"{row['size']} px", f"{row['peak_mib'] / GIB:.2f} GiB", f"{row['share']:.0%}"]
        for _, result in results("memory")
        for row in result["rows"]
    ]
    return markdown(["", "size", "beyond the weights", "of unpruned"], rows)


def overhead() -> str:
    """The share of a pruned step that pruning itself takes."""
    rows = []
    for _, result in results("overhead"):
        for row in result["rows"]:
            shares = [f"{share:.1%}" for share in row["shares"].values()]
            operations = f"{sum(row['operations_per_block'].values()):.0f}"
            rows.append([row["point"], f"{row['size']} px", *shares, f"{row['share']:.1%}", operations])
    return markdown(
        [
            "tokens dropped",
            "size",
            "rank",
            "choose",
            "stand-ins",
            "fill in",
            "gather",
            "together",
            "operations a block",
        ],
        rows,
    )


def ranking() -> str:
    """With and without the attention map."""
    found = json.loads((RESULTS / "ranking.json").read_text(encoding="utf-8"))
    rows = [
        [
            name,
            f"{level['dense_seconds']:.3f} s",
            f"{level['map_free_seconds']:.3f} s",
            times(level["speed_up"]),
            f"{level['dense_peak_bytes'] / 2**20:.0f} MiB",
            f"{level['map_free_peak_bytes'] / 2**20:.0f} MiB",
        ]
        for name, level in found["levels"].items()
    ]
    table = markdown(["level", "with the map", "without", "speed-up", "peak with the map", "without"], rows)
    return f"{table}\n\n{machine_line(found['machine'])}, {found['machine']['dtype']}"


def scaling() -> str:
    """Speed-up by size and by ratio."""
    rows = []
    for _, result in results("scaling"):
        for row in [*result["by_size"], *result["by_ratio"]]:
            name = row["contender"].removeprefix("AT-EDM, ")
            rows.append([name, f"{row['size']} px", f"{row['ratio']:g}", times(row["speed_up"]), times(row["ideal"])])
    return markdown(["tokens dropped", "size", "ratio", "speed-up", "FLOPs allow"], rows)


def compiling() -> str:
    """TorchCompileModel with and without AT-EDM."""
    rows = [
        [row["contender"], f"{row['compile_seconds']:.0f} s", f"{row['step_seconds']:.3g} s", f"{row['error']:.1e}"]
        for _, result in results("compile")
        for row in result["rows"]
    ]
    return markdown(["", "compiles in", "a step then takes", "error of the latent"], rows)


def cat() -> str:
    """CAT Pruning on transformers: a pruned step, and what follows for a run of 28."""
    rows = []
    for _, result in results("cat"):
        machine = result["machine"]
        conditions = "two conditions" if machine["cfg"] > 1 else "one condition"
        what = f"{title(machine)}, {machine['dtype']}, {conditions}, {machine_line(machine)}"
        rows += [
            [
                what,
                f"{row['size']} px",
                f"{row['rounds']}, {machine['clock']}",
                f"{row['unpruned_step_seconds']:.3g} s",
                f"{times(row['step_speed_up'])} ({times(row['ideal_step_speed_up'])})",
                f"{times(row['speed_up_of_28_steps'])} ({times(row['ideal_speed_up_of_28_steps'])})",
                f"{row['speed_up_of_28_steps'] / row['ideal_speed_up_of_28_steps']:.0%}",
                f"{row['choice_share']:.2%}",
            ]
            for row in result["rows"]
        ]
    head = [
        "where",
        "size",
        "rounds, clock",
        "full step",
        "pruned step",
        "28 steps",
        "of what FLOPs allow",
        "choosing, of a pruned step",
    ]
    return markdown(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "speed": speed,
    "beside": beside,
    "memory": memory,
    "overhead": overhead,
    "ranking": ranking,
    "scaling": scaling,
    "compile": compiling,
    "cat": cat,
}


def renewed(text: str) -> str:
    """The document with all its tables made anew."""

    def fill(block: re.Match[str]) -> str:
        name = block[2]
        if name not in TABLES:
            raise SystemExit(f"no table is called {name!r}: there are {', '.join(TABLES)}")
        return f"{block[1]}{TABLES[name]()}\n{block[3]}"

    return BLOCK.sub(fill, text)


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a document is behind the results")
    options = parser.parse_args()
    behind: list[Path] = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if renewed(text) != text:
            behind.append(path)
            if not options.check:
                path.write_text(renewed(text), encoding="utf-8")
    names = ", ".join(str(path.relative_to(ROOT)) for path in behind) or "nothing"
    print(f"behind the results: {names}" if options.check else f"written: {names}")
    sys.exit(1 if options.check and behind else 0)


if __name__ == "__main__":
    main()
