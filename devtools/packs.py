"""`dev.py packs`: other packs at pinned commits, fetched and tried beside this one; the table in docs/compatibility.md.

What is tried stands in `tests/packs/`. Their code stays outside of the repository's history: under .host/, or in the
folder that is named.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import platform
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .console import DevError, clean_environment, say
from .existing_host import prepare
from .layout import LOGS, ROOT, STATE, Host

TESTS = ROOT / "tests" / "packs"
DOCUMENT = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- packs -->", "<!-- /packs -->"
HEAD = "| pack | commit | what was put beside | models | result |\n|---|---|---|---|---|"
AGAIN = "Tried again since: "
LONGEST = 160
SHOWN = 9

Found = dict[str, Any]


def packs_command(arguments: Sequence[str]) -> int:
    """Fetch, try, write the table; 1 if something does not hold."""
    parser = argparse.ArgumentParser(prog="dev.py packs", description=__doc__)
    parser.add_argument("--folder", type=Path, default=STATE / "packs", help="where they lie, or are fetched to")
    parser.add_argument("--only", default="", help="packs with this in their name; only their rows change")
    options = parser.parse_args(arguments)
    host = prepare(dev_tools=True)
    folder = options.folder.resolve()
    for pack in catalogue():
        if options.only in pack.name and not (folder / pack.folder).is_dir():
            fetch(pack, folder / pack.folder)
    results = LOGS / "packs.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.unlink(missing_ok=True)
    env = {**host.environment(), "ATEDM_PACKS": str(folder), "ATEDM_PACKS_FOUND": str(results), "OMP_NUM_THREADS": "1"}
    command = [str(host.python), "-m", "pytest", "-q", str(TESTS), *(["-k", options.only] if options.only else [])]
    code = subprocess.run(command, cwd=ROOT, env=clean_environment(env), check=False).returncode
    found = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.is_file() else []
    if found:
        write_table(found, host, bool(options.only))
    return code


def catalogue() -> Any:
    """The packs, as `tests/packs/catalogue.py` has them."""
    sys.path.insert(0, str(TESTS))
    return importlib.import_module("catalogue").PACKS


def fetch(pack: Any, target: Path) -> None:
    """A pack at its commit; what cannot be fetched is said, and skipped by the tests."""
    target.mkdir(parents=True)
    url = f"https://github.com/{pack.repository}"
    try:
        wanted = ["fetch", "-q", "--depth", "1", url, pack.commit]
        for command in (["init", "-q"], wanted, ["checkout", "-q", "FETCH_HEAD"]):
            subprocess.run(["git", *command], cwd=target, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        for path in sorted(target.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        target.rmdir()
        reason = getattr(error, "stderr", b"") or str(error).encode()
        say(f"{pack.repository} could not be fetched: {reason.decode(errors='replace').strip()}")


def write_table(found: Sequence[Found], host: Host, some: bool) -> None:
    """Put the results between the two markers of the document; beside the rows of other packs if `some` were tried."""
    text = DOCUMENT.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise DevError(f"{DOCUMENT} has no place for the table: the lines {BEGIN} and {END}, once each.")
    before, rest = text.split(BEGIN)
    block, after = rest.split(END)
    when = f"{datetime.date.today():%Y-%m-%d}, ComfyUI {host_version(host)}, {platform.system()}, on the CPU"
    block = renewed(block, found, when) if some else f"{when}:\n\n{as_table(found)}"
    DOCUMENT.write_text(f"{before}{BEGIN}\n{block}\n{END}{after}", encoding="utf-8")


def renewed(block: str, found: Sequence[Found], when: str) -> str:
    """What stands between the markers, with the rows of the packs that were tried in place of their old ones.

    The date above the table goes on to say when all of them were tried, so a line below it has these packs' own.
    """
    heading, _, table = block.strip().partition(HEAD)
    first, *more = [line for line in heading.splitlines() if line]
    packs = list(dict.fromkeys(str(one["pack"]) for one in found))
    before = [one for line in more for one in line.removeprefix(AGAIN).removesuffix(".").split("; ")]
    again = [one for one in before if one.partition(" (")[0] not in packs] + [f"{pack} ({when})" for pack in packs]
    rows = {**_by_pack(table), **_by_pack(as_table(found).removeprefix(HEAD))}
    lines = [first, "", f"{AGAIN}{'; '.join(again)}.", "", HEAD]
    return "\n".join([*lines, *(row for one in rows.values() for row in one)])


def _by_pack(rows: str) -> dict[str, list[str]]:
    """Rows of a table, by what stands in their first column."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for row in rows.strip().splitlines():
        grouped[row.split("|")[1].strip()].append(row)
    return grouped


def host_version(host: Host) -> str:
    """As ComfyUI's own file gives it."""
    said = re.search(r'__version__ = "([^"]+)"', (host.comfyui / "comfyui_version.py").read_text(encoding="utf-8"))
    return said[1] if said else "of unknown version"


def as_table(found: Sequence[Found]) -> str:
    """One row for each pack, use and result; kinds of models with one result share it."""
    kinds: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for one in found:
        kinds[one["pack"], one["commit"][:SHOWN], one["trial"], in_words(one)].append(one["kind"])
    rows = [
        f"| {pack} | {commit} | {trial} | {', '.join(models)} | {result} |"
        for (pack, commit, trial, result), models in kinds.items()
    ]
    return "\n".join([HEAD, *rows])


def in_words(one: Found) -> str:
    """What was found of one use on one model, in a sentence."""
    if "error" in one or one.get("alone") != "samples":
        said = one.get("error") or f"without AT-EDM: {one['alone']}"
    else:
        said = _orders({name: value for name, value in one.items() if name.endswith(" it")})
        said += f"; {one['left behind']}" if "left behind" in one else ""
    said = " ".join(said.replace("|", "/").split())
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."


def _orders(outcomes: dict[str, str]) -> str:
    """Results of both orders as one where they are alike."""
    if len(set(outcomes.values())) == 1:
        (said,) = set(outcomes.values())
        return f"{said}, in either order" if said == "works" else said
    return "; ".join(f"{name}: {said}" for name, said in outcomes.items())
