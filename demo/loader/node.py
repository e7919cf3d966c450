"""AT-EDM Demo Model: gives MODEL, CLIP and VAE of the demo model, as a checkpoint loader does for a big one."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..store import DEFAULT_FILE


class ATEDMDemoLoader(io.ComfyNode):
    """A file in, MODEL, CLIP and VAE out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ATEDMDemoLoader",
            display_name="AT-EDM Demo Model",
            category="AT-EDM/demo",
            description=(
                "Loads the small text-to-image model that comes with AT-EDM. It has SDXL's layout and draws one "
                "coloured shape on a background, 256 x 256, from captions such as: a small red circle in the upper "
                "left on a blue background."
            ),
            search_aliases=["at-edm", "atedm", "demo", "no checkpoint"],
            inputs=[
                io.String.Input(
                    "file",
                    default="",
                    optional=True,
                    tooltip="A demo model file to load. Left empty, the bundled one.",
                )
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str = "") -> str:
        path = resolve(file)
        if not path.is_file():
            return f"{path} missing"
        state = path.stat()
        return f"{path} {state.st_size} {state.st_mtime_ns}"

    @classmethod
    def execute(cls, file: str = "") -> io.NodeOutput:
        from ..model import load  # only now: ComfyUI's start should not wait for it

        return io.NodeOutput(*load(resolve(file)))


def resolve(file: str) -> Path:
    """The path that the input means: nothing stands for the bundled file."""
    return Path(file.strip()).expanduser() if file.strip() else DEFAULT_FILE
