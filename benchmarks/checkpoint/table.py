"""The table: what was measured beside what the paper reports, from what lies in a folder."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from devtools.console import say

from ..printing import markdown, show
from .quality import Scorer, distances
from .rows import BY_ID, Row
from .store import Store
from .work import Picture

COLUMNS = (
    "row", "TFLOPs", "ratio", "drawn", "PSNR", "SSIM", "LPIPS", "FID", "CLIP", "time",
    "paper: FID", "paper: CLIP",
)  # fmt: skip
PAPER_PICTURES = 5000
SDXL_SIZE = 1024
NOTHING = "-"

Line = dict[str, Any]


def rows_of(store: Store) -> list[Row]:
    """The rows that a folder is for, in the order of the table."""
    return [row for row in BY_ID.values() if row.id in store.manifest.get("rows", {})]


def pictures_of(store: Store, row: str) -> list[Picture]:
    """Those of a row that are there, in the order of the prompts."""
    prompts, seed = store.manifest["prompts"], store.manifest["first_seed"]
    wanted = (Picture(row, int(index), seed + int(index)) for index in prompts)
    return sorted((one for one in wanted if store.has(one)), key=lambda one: one.index)


def twin(picture: Picture) -> Picture:
    """The full model's of the same prompt and seed."""
    return Picture("full", picture.index, picture.seed)


def to_compare(store: Store) -> list[Picture]:
    """Pictures whose distance to the full model's is not known yet."""
    found = [one for row in rows_of(store) if row.method != "full" for one in pictures_of(store, row.id)]
    return [one for one in found if store.has(twin(one)) and "psnr" not in store.facts(one)]


def compare(store: Store, picture: Picture) -> None:
    """Measure the distance of one to the full model's, and keep it."""
    store.learn(picture, distances(store.path(picture), store.path(twin(picture))))


def to_score(store: Store, scorer: Scorer) -> list[Row]:
    """Rows that a scorer has not seen as they are now."""
    known = store.scores.get(scorer.name, {})
    rows = [row for row in rows_of(store) if scorer.name != "lpips" or row.method != "full"]

    def is_known(row: Row) -> bool:
        one = known.get(row.id, {})
        return (one.get("pictures"), one.get("setting")) == (len(_shown(store, row, scorer)), scorer.setting)

    return [row for row in rows if _shown(store, row, scorer) and not is_known(row)]


def _shown(store: Store, row: Row, scorer: Scorer) -> list[Picture]:
    """The pictures of a row that a scorer looks at."""
    found = pictures_of(store, row.id)
    return [one for one in found if store.has(twin(one))] if scorer.name == "lpips" else found


def score(store: Store, scorer: Scorer, row: Row, tick: Any) -> None:
    """Measure a row, and keep it."""
    found = _shown(store, row, scorer)
    prompts = [store.manifest["prompts"][str(one.index)] for one in found]
    value = scorer.score([store.path(one) for one in found], prompts, [store.path(twin(one)) for one in found], tick)
    store.keep_score(scorer.name, row.id, {"pictures": len(found), "setting": scorer.setting, "value": value})


def lines(store: Store) -> list[Line]:
    """One per row of which there is a picture."""
    scores, found = store.scores, []
    for row in rows_of(store):
        pictures = pictures_of(store, row.id)
        if not pictures:
            continue
        facts = [store.facts(one) for one in pictures]
        made = store.manifest["rows"][row.id]
        line: Line = {"id": row.id, "name": row.name, "pictures": len(pictures)}
        line |= {name: made[name] for name in ("tflops", "ratio", "note")}
        for name in ("psnr", "ssim", "seconds"):
            values = [one[name] for one in facts if name in one]
            line[name] = statistics.median(values) if values else None
        for name in ("lpips", "fid", "clip"):
            line[name] = scores.get(name, {}).get(row.id, {}).get("value")
        line |= {"paper_fid": row.fid, "paper_clip": row.clip}
        found.append(line)
    return found


def notes(store: Store, more: Iterable[str]) -> list[str]:
    """What a reader has to know."""
    manifest = store.manifest
    sampling = manifest["sampling"]
    said = [
        f"{manifest['checkpoint']['name']}, {sampling['size']} px, {sampling['steps']} steps, {sampling['sampler']} "
        f"({sampling['scheduler']}), CFG {sampling['cfg']:g}. The paper: SDXL-base, MS-COCO 2017, 1024 px, 50 steps, "
        "CFG 7.",
        "TFLOPs: of a step of SDXL at 1024 px at that ratio, averaged over a run. PSNR (dB), SSIM and LPIPS: against "
        "the full model's picture of the same prompt and seed (medians; LPIPS the mean). Time: seconds of a picture by "
        "the server's clock, median.",
    ]
    if manifest["checkpoint"]["kind"] != "sdxl" or sampling["size"] != SDXL_SIZE:
        said.append(
            "This is not SDXL at 1024 px: the ratios are the same, the FLOPs and the paper's numbers are SDXL's."
        )
    said.append(
        "ToMe merges in self-attention, cross-attention and feed-forward at all levels, as the paper's FLOPs ask for; "
        "ComfyUI's own ToMe node leaves SDXL as it is."
    )
    scores = store.scores
    counts = {line["pictures"] for line in lines(store)}
    if scores.get("fid") and min(counts, default=0) < PAPER_PICTURES:
        said.append(
            f"FID of few pictures is biased upwards: these are of {min(counts)}, the paper's of {PAPER_PICTURES}. "
            "Compare rows with each other, not with the paper."
        )
    if len(counts) > 1:
        said.append("Rows differ in their number of pictures: compare them with care, their FID not at all.")
    if scores.get("clip"):
        models = sorted({one["setting"] for one in scores["clip"].values()})
        said.append(f"CLIP score by {', '.join(models)}; another CLIP gives another number.")
    devices = sorted({fact["device"] for row in rows_of(store) for one in pictures_of(store, row.id)
                      if "device" in (fact := store.facts(one))})  # fmt: skip
    if devices:
        said.append(f"Drawn on {' and '.join(devices)}.")
    if len(devices) > 1:
        said.append("Different devices round differently, and have their own seconds.")
    said += [f"{BY_ID[row].name}: {one['note']}." for row, one in manifest["rows"].items() if one["note"]]
    return [*said, *manifest.get("remarks", {}).values(), *more]


def present(store: Store, more: Sequence[str]) -> None:
    """Print the table, and write it to the folder as Markdown and JSON."""
    found = lines(store)
    if not found:
        say("No picture is there yet: no table.")
        return
    cells = [_cells(line) for line in found]
    said = notes(store, more)
    title = "The paper's table on " + store.manifest["checkpoint"]["name"]
    show(title, COLUMNS, cells, {})
    say("\n".join(said))
    text = "\n".join(f"- {one}" for one in said)
    (store.folder / "table.md").write_text(f"# {title}\n\n{markdown(COLUMNS, cells)}\n\n{text}\n", encoding="utf-8")
    content = {"lines": found, "notes": said, "sampling": store.manifest["sampling"]}
    (store.folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    say(f"\nIn {store.folder}: table.md, results.json, pictures/")


def _cells(line: Line) -> list[str]:
    formats = {
        "name": "{}", "tflops": "{:.2f}", "ratio": "{:.3f}", "pictures": "{}", "psnr": "{:.1f}", "ssim": "{:.3f}",
        "lpips": "{:.3f}", "fid": "{:.2f}", "clip": "{:.4f}", "seconds": "{:.1f}",
        "paper_fid": "{:.2f}", "paper_clip": "{:.4f}",
    }  # fmt: skip
    return [NOTHING if line[name] is None else shape.format(line[name]) for name, shape in formats.items()]
