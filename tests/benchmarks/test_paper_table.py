"""The paper's table over servers that die, hang, fail and come back; interruption, resumption and what is refused."""

from __future__ import annotations

import _thread
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_comfyui import FakeComfyUI, Workflow

from benchmarks.checkpoint import quality
from benchmarks.checkpoint.checkpoint import main
from benchmarks.checkpoint.checkpoint_file import SDXL_SIGN
from benchmarks.checkpoint.draw import Patience
from benchmarks.checkpoint.rows import SDXL_TFLOPS, TABLE
from benchmarks.checkpoint.work import Picture, Work

PROMPTS = ("a cat (on a mat)", "two dogs", "rain")
ROWS = ["full", "tome-c", "paper-c", "pack-c"]
QUICK = Patience(retry=0.05, longest=0.1, alone=0.5)


def safetensors(file: Path, names: dict[str, list[int]], missing: int = 0) -> Path:
    """A file whose header says that it holds these tensors."""
    header, start = {}, 0
    for name, shape in names.items():
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, start + 2]}
        start += 2
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(start - missing))
    return file


SDXL_NAMES = {
    SDXL_SIGN: [1280, 1280],
    "model.diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3],
    "model.diffusion_model.output_blocks.0.0.weight": [1],
    "conditioner.embedders.0.weight": [1],
    "first_stage_model.decoder.weight": [1],
}


class Run:
    """The command in a folder of its own, on fake servers."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = safetensors(folder / "sdxl.safetensors", SDXL_NAMES)
        self.prompts = folder / "prompts.txt"
        self.prompts.write_text("\n".join(PROMPTS), encoding="utf-8")
        self.out = folder / "out"
        self.servers: list[FakeComfyUI] = []

    def server(self, **kind: Any) -> FakeComfyUI:
        made = FakeComfyUI(**{"checkpoint": f"xl/{self.checkpoint.name}", **kind})
        self.servers.append(made)
        return made

    def __call__(self, *more: str, servers: list[FakeComfyUI] | None = None, rows: list[str] | None = None) -> int:
        used = self.servers if servers is None else servers
        arguments = [self.checkpoint, "--prompts", self.prompts, "--out", self.out]
        arguments += [part for one in used for part in ("--server", one.address)]
        return main([*map(str, arguments), "--rows", *(rows or ROWS), *more], QUICK)

    def pictures(self) -> set[str]:
        return {str(file.relative_to(self.out / "pictures")) for file in self.out.glob("pictures/*/*.png")}

    def results(self) -> dict[str, Any]:
        found = json.loads((self.out / "results.json").read_text(encoding="utf-8"))
        return {line["id"]: line for line in found["lines"]}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setattr(quality, "find_spec", lambda name: None)  # or weights would be fetched
    made = Run(tmp_path)
    yield made
    for server in made.servers:
        server.close()


def every_picture(rows: list[str] = ROWS, prompts: int = len(PROMPTS)) -> set[str]:
    return {f"{row}/{index:05d}-{index}.png" for row in rows for index in range(prompts)}


def test_all_rows_beside_the_papers_numbers(run: Run) -> None:
    server = run.server()
    assert run(rows=[row.id for row in TABLE]) == 0
    assert run.pictures() == every_picture([row.id for row in TABLE])
    results = run.results()
    assert (results["full"]["paper_fid"], results["paper-c"]["paper_clip"]) == (31.94, 0.3209)
    for row in TABLE[1:]:
        assert results[row.id]["tflops"] == pytest.approx(row.tflops, abs=0.005)
        assert results[row.id]["psnr"] > 10
        assert results[row.id]["seconds"] == 2.5
    assert results["full"]["tflops"] == pytest.approx(SDXL_TFLOPS, abs=1e-3)
    text = (run.out / "table.md").read_text(encoding="utf-8")
    assert "| AT-EDM-b, paper's recipe | 3.60 | 0.844 | 3 |" in text
    assert "AT-EDM-a, paper's recipe: without DSAP" in text
    # ComfyUI would read these parentheses as weights
    assert {caption for caption, _ in server.prompts()} == {r"a cat \(on a mat\)", "two dogs", "rain"}


def test_the_papers_recipe_and_the_packs_defaults_reach_the_server(run: Run) -> None:
    server = run.server()
    run("--count", "1", rows=["paper-c", "pack-c", "tome-b"])
    by_ratio = {round(one["prune"]["inputs"]["prune_ratio"], 3): one for one in server.drawn if "schedule" in one}
    paper = by_ratio[0.699]
    assert paper["prune"]["inputs"]["recovery"] == "copy"
    assert paper["prune"]["inputs"]["selection"] == "top-k"
    assert paper["prune"]["inputs"]["stand_in"] == "attention"
    assert paper["schedule"]["inputs"] == {"early_percent": 0.3, "early_ratio": 0.0, "early_blocks": "stage ends"}
    (pack,) = [one for one in server.drawn if "prune" in one and "schedule" not in one]
    assert pack["prune"]["inputs"]["recovery"] == "regression"
    assert pack["sample"]["inputs"]["model"] == ["prune", 0]
    (tome,) = [one for one in server.drawn if "merge" in one]
    assert tome["merge"]["inputs"] == {"ratio": pytest.approx(0.594, abs=1e-3), "model": ["load", 0]}


def test_two_servers_share_the_work_and_draw_nothing_twice(run: Run) -> None:
    first, second = run.server(), run.server()
    first.seconds = second.seconds = 0.03
    assert run() == 0
    assert run.pictures() == every_picture()
    assert first.drawn
    assert second.drawn
    assert len(first.drawn) + len(second.drawn) == len(every_picture())


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("dies", "does not answer"),
        ("hangs", "did not finish a picture within 1 s"),
        ("forgets", "has forgotten a picture"),
        ("garbles", "does not answer as ComfyUI does"),
    ],
)
def test_a_server_that_breaks_loses_nothing(
    run: Run, mood: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = run.server(), run.server()
    good.seconds = 0.03
    bad.dies_after, bad.mood = (1, "") if mood == "dies" else (None, mood)
    assert run("--timeout", "1") == 0
    assert run.pictures() == every_picture()
    out = capsys.readouterr().out
    assert f"Dropped for now: {bad.address}: {bad.address} {reason}" in out


def test_a_server_that_comes_back_draws_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = run.server(), run.server()
    good.seconds, bad.dies_after = 0.25, 0

    def revive(count: int) -> None:
        good.on_picture = lambda _: None
        threading.Thread(target=lambda: (bad._thread.join(), time.sleep(0.1), run.server(port=bad.port))).start()

    good.on_picture = revive
    assert run() == 0
    assert f"{bad.address} is back" in capsys.readouterr().out
    assert run.servers[-1] is not bad
    assert run.servers[-1].drawn
    assert run.pictures() == every_picture()


def test_when_all_servers_are_gone_it_says_so_and_goes_on_later(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    dying = [run.server(), run.server()]
    for server in dying:
        server.dies_after = 2
    assert run() == 1
    assert "Stopped: No server is left" in capsys.readouterr().err
    there = run.pictures()
    assert len(there) == 4
    fresh = run.server()
    assert run(servers=[fresh]) == 0
    assert run.pictures() == every_picture()
    assert len(fresh.drawn) == len(every_picture() - there)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests were started in the background, with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_keeps_what_is_drawn_and_takes_back_what_is_queued(run: Run, ctrl_c: None) -> None:
    server = run.server()

    def interrupt_at_fourth(count: int) -> None:
        if count == 4:
            server.mood = "hangs"
            threading.Timer(0.3, _thread.interrupt_main).start()

    server.on_picture = interrupt_at_fourth
    with pytest.raises(KeyboardInterrupt):
        run()
    there = run.pictures()
    assert len(there) == 3
    assert len(server.cancelled) == 1
    assert not list(run.out.rglob("*.part"))
    fresh = run.server()
    assert run(servers=[fresh]) == 0
    assert run.pictures() == every_picture()
    assert len(fresh.drawn) == len(every_picture()) - 3


def test_a_picture_that_cannot_be_written_stops_everything_and_keeps_the_rest(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.server()
    (run.out / "pictures").mkdir(parents=True)
    (run.out / "pictures" / "paper-c").write_text("in the way", encoding="utf-8")
    assert run() == 1
    assert "00000-0.png cannot be written" in capsys.readouterr().err
    assert run.pictures() == {"full/00000-0.png", "tome-c/00000-0.png"}


def test_half_a_picture_and_half_a_line_are_made_anew(run: Run) -> None:
    run.server()
    run()
    before = run.results()
    broken = run.out / "pictures" / "pack-c" / "00001-1.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    facts = run.out / "facts.jsonl"
    facts.write_text(facts.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    drawn = len(run.servers[0].drawn)
    assert run() == 0
    assert len(run.servers[0].drawn) == drawn + 1
    assert broken.read_bytes() == whole
    assert run.results() == before


def test_a_row_that_fails_is_given_up_and_the_others_finish(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(workflow: Workflow) -> bool:
        return workflow.get("prune", {}).get("inputs", {}).get("recovery") == "copy"

    for server in (run.server(), run.server()):
        server.fails = fails
    assert run() == 1
    assert run.pictures() == every_picture(["full", "tome-c", "pack-c"])
    assert "Given up: row paper-c" in capsys.readouterr().out
    assert set(run.results()) == {"full", "tome-c", "pack-c"}


def test_a_server_that_always_fails_is_dropped(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = run.server(), run.server()
    good.seconds = 0.1
    bad.fails = lambda workflow: "sample" in workflow
    assert run() == 0
    assert run.pictures() == every_picture()
    said = f"Dropped for now: {bad.address}: 3 workflows in a row failed there"
    assert said in capsys.readouterr().out


def test_other_settings_are_refused_and_more_prompts_taken(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    server = run.server()
    assert run("--count", "2") == 0
    drawn = len(server.drawn)
    assert run("--steps", "30") == 1
    assert "sampling.steps: 50 there, 30 now" in capsys.readouterr().err
    server.nodes["ATEDMApply"]["input"]["required"]["recovery"][1]["default"] = "zero"
    assert run() == 1
    assert 'rows.pack-c.nodes.prune.inputs.recovery: "regression" there, "zero" now' in capsys.readouterr().err
    server.nodes["ATEDMApply"]["input"]["required"]["recovery"][1]["default"] = "regression"
    assert len(server.drawn) == drawn
    assert run() == 0
    assert len(server.drawn) == len(every_picture())


def test_without_its_node_tome_is_left_out(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    del run.server().nodes["ATEDMBenchToMe"]
    assert run() == 0
    assert run.pictures() == every_picture(["full", "paper-c", "pack-c"])
    assert "Left out: ToMe" in capsys.readouterr().out


def test_a_report_needs_no_server(run: Run) -> None:
    run.server()
    run()
    before = run.results()
    (run.out / "results.json").unlink()
    assert run("--report", servers=[]) == 0
    assert run.results() == before


class Counting:
    """A scorer that counts pictures and remembers which rows it saw."""

    name, setting = "fid", "10 real pictures"

    def __init__(self) -> None:
        self.calls: list[tuple[int, str]] = []

    def score(self, pictures: list[Path], prompts: list[str], full: list[Path], tick: Callable[[int], None]) -> float:
        assert [file.parent.name for file in full] == ["full"] * len(pictures)
        self.calls.append((len(prompts), pictures[0].parent.name))
        return float(len(pictures))


def test_scores_are_kept_by_row_and_few_pictures_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Counting()
    monkeypatch.setattr(quality, "scorers", lambda *_: ([scorer], ["CLIP could not be measured"]))
    run.server()
    run("--count", "2")
    assert scorer.calls == [(2, row) for row in ROWS]
    run("--count", "2")
    assert len(scorer.calls) == len(ROWS)
    run()
    assert scorer.calls[len(ROWS) :] == [(3, row) for row in ROWS]
    assert run.results()["paper-c"]["fid"] == 3
    text = (run.out / "table.md").read_text(encoding="utf-8")
    assert "FID of few pictures is biased upwards: these are of 3" in text
    assert "CLIP could not be measured" in text


def test_pictures_of_one_prompt_stay_with_one_server() -> None:
    work = Work([Picture(row, i, i) for i in range(2) for row in "xyz"], ["a", "b"], lambda line: None)
    taken = [(server, work.take(server)) for server in "ababab"]
    assert [(server, one and one.index) for server, one in taken] == [("a", 0), ("b", 1)] * 3
