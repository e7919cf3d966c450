"""The trials of one pack in a process of its own, since many packs change ComfyUI when they are loaded.

`python beside.py FOLDER PACK [TRIAL]` prints what was found, a line of JSON for each trial and kind of model.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT))

from catalogue import PACKS  # noqa: E402
from trials import Given, Trial  # noqa: E402

from devtools.fuzz import traces  # noqa: E402
from devtools.fuzz.run import start_host  # noqa: E402

CELLS = (16, 24)
STEPS, SEED, CFG = 3, 3, 4.0
METHODS = {
    "unet": ("ATEDMApply", {"prune_ratio": 0.63}, {"prune_ratio": 0.0}),
    "dit": ("CATPruningApply", {"keep_ratio": 0.4, "warmup": 0.0, "least_full_steps": 2}, {"keep_ratio": 1.0}),
}
FOUND = "FOUND "
ALONE, SAMPLES = "alone", "samples"


def widget_values(declared: Mapping[str, Any]) -> dict[str, Any]:
    """What a fresh node's required widgets hold: their defaults, or the first of their options.

    ComfyUI's page sends them with every prompt, so an input that a pack adds later does not have to be named here.
    """
    values: dict[str, Any] = {}
    for name, (kind, *more) in declared.get("required", {}).items():
        settings = more[0] if more else {}
        options = kind if isinstance(kind, (list, tuple)) else settings.get("options", ())
        if "default" in settings:
            values[name] = settings["default"]
        elif options:
            values[name] = options[0]
    return values


class Bench:
    """A host with one pack and ours."""

    def __init__(self, folder: Path) -> None:
        self.host = start_host()
        self.host.load_pack(folder)
        self.warnings: list[str] = []
        listener = logging.Handler(logging.WARNING)
        where = f"{folder.parent}/"  # part of the name that the host gives a pack's modules
        listener.emit = lambda record: self.warnings.append(record.getMessage().replace(where, ""))  # type: ignore[method-assign]
        logging.getLogger().addHandler(listener)

    def call(self, node_id: str, **inputs: Any) -> Any:
        """A node's outputs; of its widgets, those that are not given are as a fresh node has them."""
        import torch

        kind = self.host.node(node_id)
        if hasattr(kind, "define_schema"):
            return self.host.call(node_id, **inputs)
        with torch.inference_mode():
            return getattr(kind(), kind.FUNCTION)(**{**widget_values(kind.INPUT_TYPES()), **inputs})

    def sample(self, given: Given) -> Any:
        """The latent that comes out."""
        node_id, more = given.sampler
        links = {"positive": given.positive, "negative": given.negative, "latent_image": given.latent}
        how = {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        return self.call(node_id, model=given.model, **links, **how, **more)[0]["samples"]


def fresh(kind: str) -> Given:
    """A tiny model with what it takes."""
    import torch

    from benchmarks import random_models, random_transformers

    name, _, wide = kind.partition(", ")
    generator = torch.Generator().manual_seed(2)
    takes: Any = {**random_transformers.TRANSFORMERS, **random_models.KINDS}[name]
    context = 2048 if wide else takes.context
    model = random_models.sdxl() if wide else takes.build()

    def text() -> Any:
        more = {"pooled_output": torch.randn(1, takes.pooled, generator=generator)} if takes.pooled else {}
        return [[torch.randn(1, 12, context, generator=generator), more]]

    latent = {"samples": torch.randn(1, model.model.latent_format.latent_channels, *CELLS, generator=generator)}
    return Given(name, model, text(), text(), latent)


def look(bench: Bench, trial: Trial, kind: str) -> dict[str, Any]:
    """What was found of a trial on one kind of model: by method `pruned`, `stands aside` or what does not hold."""
    import torch

    from benchmarks import random_transformers

    base = fresh(kind)

    def pack(given: Given) -> Given:
        # Weights and masks that a trial makes are what another node would have made, and the host runs every node in
        # this mode. A pack that puts an ordinary tensor into a layer that it makes in this mode has a broken layer.
        with torch.inference_mode():
            return trial.apply(bench.call, given)

    untouched = bench.sample(base)
    try:
        alone, again = bench.sample(pack(base)), bench.sample(pack(base))
    except Exception as error:
        return {"kind": kind, ALONE: f"fails: {type(error).__name__}: {error}"}
    found: dict[str, Any] = {"kind": kind, ALONE: SAMPLES}
    if not torch.equal(alone, again):
        return {**found, ALONE: "does not repeat"}
    if alone.shape == untouched.shape and torch.equal(alone, untouched):
        return {**found, ALONE: "does nothing to this model"}
    before = traces.of_model(base.model), traces.of_modules(base.model, weights=True)
    wing = "dit" if base.kind in random_transformers.TRANSFORMERS else "unet"
    node_id, on, off = METHODS[wing]
    for order in ("after", "before"):

        def both(inputs: dict[str, Any], order: str = order) -> Given:
            def ours(given: Given) -> Given:
                return replace(given, model=bench.host.call(node_id, model=given.model, **inputs)[0])

            return ours(pack(base)) if order == "after" else pack(ours(base))

        found[f"{node_id} {order} it"] = _outcome(bench, both, on, off, alone)
    left = bench.sample(base)
    if not torch.equal(left, untouched) or before != (
        traces.of_model(base.model),
        traces.of_modules(base.model, weights=True),
    ):
        found["left behind"] = "FAILS: the model alone is not what it was"
    if runs := traces.left_runs(bench.host):
        found["left behind"] = f"FAILS: runs are still there: {sorted(set(runs))}"
    return found


def _outcome(
    bench: Bench, both: Callable[[dict[str, Any]], Given], on: dict[str, Any], off: dict[str, Any], alone: Any
) -> str:
    import torch

    if not torch.equal(bench.sample(both(off)), alone):
        return "FAILS: off is not the pack alone"
    bench.warnings.clear()
    out = bench.sample(both(on))
    warned = [line for line in bench.warnings if line.startswith(("AT-EDM", "CAT Pruning"))]
    if not bool(out.isfinite().all()) and bool(alone.isfinite().all()):
        return "FAILS: not finite"
    if torch.equal(out, alone):
        return f"stands aside: {warned[0]}" if warned else "FAILS: does nothing and says nothing"
    if not torch.equal(bench.sample(both(on)), out):
        return "FAILS: does not repeat"
    return "works" + (f", with a warning: {warned[0]}" if warned else "")


def main(folder: str, pack_name: str, trial_name: str = "") -> int:
    """Print what was found."""
    (pack,) = (one for one in PACKS if one.name == pack_name)
    try:
        bench = Bench(Path(folder) / pack.folder)
    except RuntimeError as error:
        _tell(pack.trials[0], {"kind": "", ALONE: f"cannot be loaded: {str(error).strip().splitlines()[-1]}"})
        return 0
    for trial in pack.trials:
        for kind in trial.kinds if trial_name in ("", trial.name) else ():
            try:
                found = look(bench, trial, kind)
            except Exception as error:
                found = {"kind": kind, "error": f"FAILS: {type(error).__name__}: {error}"}
            _tell(trial, found)
    return 0


def _tell(trial: Trial, found: dict[str, Any]) -> None:
    print(FOUND + json.dumps({"trial": trial.name, **found}), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
