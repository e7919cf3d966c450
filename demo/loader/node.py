"""AT-EDM Demo Model: gives MODEL, CLIP and VAE of a bundled model, as a checkpoint loader does for a big one."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..photographs.store import FILE as PHOTOGRAPHS
from ..store import DEFAULT_FILE

BUNDLED = {"shapes": DEFAULT_FILE, "photographs": PHOTOGRAPHS}
LONGEST_SHOWN = 80


class ATEDMDemoLoader(io.ComfyNode):
    """A bundled model or a file in, MODEL, CLIP and VAE out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ATEDMDemoLoader",
            display_name="AT-EDM Demo Model",
            category="AT-EDM/demo",
            description=(
                "Loads one of the two small text-to-image models that come with AT-EDM. Both have SDXL's layout and "
                "draw at 256 x 256. The one for shapes draws one coloured shape on a background, from captions such "
                "as: a small red circle in the upper left on a blue background. The one for photographs draws an "
                "object on a textured ground: a large yellow lemon on the left on a blue background."
            ),
            search_aliases=["at-edm", "atedm", "demo", "no checkpoint"],
            inputs=[
                io.String.Input(
                    "file",
                    default="",
                    optional=True,
                    tooltip="A demo model's file in models/checkpoints, by its name. Left empty, a bundled one.",
                ),
                io.Combo.Input(
                    "model",
                    options=list(BUNDLED),
                    default="shapes",
                    optional=True,
                    tooltip="Which of the bundled models, where no file is named.",
                ),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str = "", model: str = "shapes") -> str:
        try:
            path = resolve(file, model)
            state = path.stat()
        except (OSError, ValueError) as fault:
            return str(fault)
        return f"{path} {state.st_size} {state.st_mtime_ns}"

    @classmethod
    def execute(cls, file: str = "", model: str = "shapes") -> io.NodeOutput:
        from ..model import load  # only now: ComfyUI's start should not wait for it

        return io.NodeOutput(*load(resolve(file, model)))


def resolve(file: str, model: str = "shapes") -> Path:
    """The path that the inputs mean: where no file is named, that of the bundled model.

    Workflows come from anywhere, so no other file of the machine can be named than the host's own loaders offer.

    Raises:
        ValueError: the host has no checkpoint of that name.
    """
    name = file.strip()
    if not name:
        return BUNDLED[model]
    import folder_paths

    path = (
        folder_paths.get_full_path("checkpoints", name)
        if name in folder_paths.get_filename_list("checkpoints")
        else None
    )
    if path is None:
        shown = name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}..."
        raise ValueError(
            f"file is {shown!r}, and ComfyUI has no checkpoint of that name. Put the demo model's file into its "
            "models/checkpoints folder and give its name, or leave the input empty to use the bundled one."
        )
    return Path(path)
