"""A server that works for hours: memory, records and previews stay bounded; one that was killed starts clean.

ATEDM_PROMPTS says how many prompts, 24 without it. The measured thousand: `ATEDM_PROMPTS=1000 python dev.py test
tests/host/test_long_runs.py -s`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from demo.run import own_base
from demo.workflow import Loader, Sampling, Workflow, node, sampled
from devtools.layout import Host, current_host
from devtools.server import Server

pytestmark = [pytest.mark.server, pytest.mark.slow]

TINY_PACK = Path(__file__).resolve().parent / "tiny_pack"
PROMPTS = int(os.environ.get("ATEDM_PROMPTS", "24"))
MEASURED = 1000  # from this many on growth is judged to the percent
WARM_UP = PROMPTS // 10 if PROMPTS >= MEASURED else PROMPTS // 2
MOST_GROWTH = {"resident": 0.05, "objects": 0.01, "tensors": 0.01} if PROMPTS >= MEASURED else {}
MOST_GROWTH_OF_FEW = 0.1  # among a few dozen prompts the records are still filling up
QUEUED_AT_ONCE = 20
IN_A_ROW = 5
MOST_OF_ONE = 2 * 2  # pictures that a report of these shows: chart and maps, for light pages and for dark ones
CAPTION = "a large red mushroom in the center on a green background"
QUICK = Sampling(steps=4, size=64)
DEMO, TRANSFORMER = Loader(inputs={"model": "photographs"}), Loader("TinyCheckpoint", {"kind": "sd3", "seed": 0})
WAYS = {
    "prune": (DEMO, "ATEDMApply", {"prune_ratio": 0.63}),
    "auto": (DEMO, "ATEDMAuto", {"speed_up": 1.6}),
    "forecast": (DEMO, "StepForecastApply", {"compute": 0.6}),
    "cat": (TRANSFORMER, "CATPruningApply", {"keep_ratio": 0.4, "warmup": 0.0, "least_full_steps": 2}),
}


def workflow(way: str, seed: int, sampling: Sampling = QUICK) -> Workflow:
    """A picture drawn in one of the pack's ways, and the report on it."""
    loader, patch, inputs = WAYS[way]
    nodes = {"load": node(loader.node_id, **loader.inputs), "patch": node(patch, model=["load", 0], **inputs)}
    whole = sampled(nodes, ["patch", 0], sampling, CAPTION, seed)
    whole["decode"] = node("VAEDecode", samples=["sample", 0], vae=["load", 2])
    whole["save"] = node("PreviewImage", images=["decode", 0])
    whole["report"] = node("ATEDMReport", model=["patch", 0], result=["decode", 0])
    return whole


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    with own_base([TINY_PACK]) as made:
        yield made


@pytest.fixture(scope="module")
def server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For both tests: the last one kills it."""
    with serving(base, tmp_path_factory.mktemp("log") / "server.log") as started:
        yield started


def serving(base: Path, log: Path) -> Server:
    found = current_host()
    return Server(Host(found.comfyui, found.python, base), log, cpu=True, threads=1)


def shown(base: Path) -> list[Path]:
    return sorted((base / "temp").rglob("*.png"))


def sheets(server: Server) -> list[dict[str, str]]:
    """The pictures of all reports that the server remembers, as it names them."""
    outputs = [entry["outputs"].get("report", {}) for entry in server.get("/history").values()]
    panels = [panel for output in outputs for panel in output.get("atedm_report", ())]
    return [one for panel in panels for one in (*panel["light"], *panel["dark"])]


def resident(server: Server) -> int:
    return int(psutil.Process(server.process_id).memory_info().rss)


def way_of(seed: int) -> str:
    """Ways take turns, and with them the two models, of which the host drops the one that a prompt does not load.

    While warming up with every prompt: loading leaves the heap in pieces, and is to have done so before memory is
    judged. Then every fifth, since half of a prompt's time would go into loading.
    """
    return list(WAYS)[(seed if seed < WARM_UP or PROMPTS < MEASURED else seed // IN_A_ROW) % len(WAYS)]


def kept(server: Server) -> dict[str, int]:
    """What the server holds after one and the same prompt: records, runs, history, objects, tensors and all together.

    Records and runs are the pack's. The history is the host's, in bytes: every prompt and what its nodes showed, up to
    10,000 of them. Of objects that Python's garbage collector knows it is left out. Tensors are in bytes, and so is all
    resident memory, without what the C library has free: that comes and goes by 5 % with the models it was taken for.
    """
    server.run(workflow("cat", time.monotonic_ns() % 2**32))
    (text,) = server.run({"1": node("TinyKept", number=time.monotonic_ns())})["outputs"]["1"]["text"]
    names, numbers = zip(*(part.split("=") for part in text.split()), strict=True)
    return dict(zip(names, map(int, numbers), strict=True))


def drawn(server: Server, way: str) -> bytes:
    """The picture of one seed."""
    return server.view(server.run(workflow(way, 1))["outputs"]["save"]["images"][0])


def queue_all(server: Server, seeds: range) -> list[int]:
    """Queue as a user does who leaves: many at once; the server's memory after each of these many, in bytes."""
    sizes = []
    for start in range(seeds.start, seeds.stop, QUEUED_AT_ONCE):
        many = range(start, min(start + QUEUED_AT_ONCE, seeds.stop))
        waiting = [server.queue(workflow(way_of(seed), seed)) for seed in many]
        for prompt in waiting:
            outputs = server.wait(prompt)["outputs"]["report"]
            assert "No finished run" not in outputs["text"][0]
        sizes.append(resident(server))
    return sizes


def growth(early: dict[str, int], late: dict[str, int]) -> dict[str, float]:
    """By what share more is held, by kind. What the host's history weighs is not counted as memory that grew."""
    history = late["history"] - early["history"]
    beside = {"objects": late["objects"], "tensors": late["tensors"], "resident": late["resident"] - history}
    return {name: number / early[name] - 1 for name, number in beside.items()}


def test_memory_records_and_previews_are_bounded(server: Server, base: Path) -> None:
    queue_all(server, range(WARM_UP))
    early = kept(server)
    began = time.monotonic()
    sizes = queue_all(server, range(WARM_UP, PROMPTS))
    seconds, late = time.monotonic() - began, kept(server)
    grown = growth(early, late)
    pictures = {one["filename"] for one in sheets(server)}
    reported = [file for file in shown(base) if file.name in pictures]
    print(
        f"\n{PROMPTS} prompts, {seconds / (PROMPTS - WARM_UP):.2f} s each\nafter {WARM_UP}: {early}\nat the end: {late}"
        f"\nmore without the history: { {name: f'{share:+.2%}' for name, share in grown.items()} }\n"
        f"of {len(pictures)} pictures in reports {len(reported)} are kept, "
        f"{sum(file.stat().st_size for file in reported) / 2**20:.1f} MiB\n"
        f"every {5 * QUEUED_AT_ONCE} prompts {[round(size / 2**20) for size in sizes[::5]]} MiB"
    )
    assert {name: share for name, share in grown.items() if share > MOST_GROWTH.get(name, MOST_GROWTH_OF_FEW)} == {}
    assert late["records"] <= 32
    assert late["runs"] == 0
    assert len(reported) <= 64 * MOST_OF_ONE


def test_a_server_killed_while_sampling_starts_clean(server: Server, base: Path, tmp_path: Path) -> None:
    before = {way: drawn(server, way) for way in ("prune", "cat")}
    there = {path for path in base.rglob("*") if "temp" not in path.parts}
    server.queue(workflow("prune", 2, Sampling(steps=500, size=64)))
    while "/500" not in server.log():
        time.sleep(0.05)
    psutil.Process(server.process_id).kill()
    while server.alive():
        time.sleep(0.05)
    with serving(base, tmp_path / "after.log") as again:
        assert shown(base) == []
        assert {path for path in base.rglob("*") if "temp" not in path.parts} == there
        assert again.get("/queue") == {"queue_running": [], "queue_pending": []}
        after = {way: drawn(again, way) for way in before}
        said = [line for line in again.log().splitlines() if "AT-EDM" in line and "rror" in line]
    assert after == before
    assert said == []
