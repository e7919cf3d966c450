"""Token merging (Bolya and Hoffman 2023) in all parts of every attention layer, at every level.

ComfyUI's own node merges before self-attention's queries only, and at the latent's own resolution only, where SDXL has
no attention: it saves nothing there. The FLOPs that AT-EDM's paper gives for ToMe are reached only by merging before
self-attention, cross-attention and the feed-forward, at all levels. Which tokens belong together is found by ComfyUI's
own matching, once per layer from what goes into its self-attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy_api.latest import io
from comfy_extras.nodes_tomesd import bipartite_soft_matching_random2d

MOST = 0.75
STRIDE = 2


class ATEDMBenchToMe(io.ComfyNode):
    """MODEL in, MODEL with merged tokens out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ATEDMBenchToMe",
            display_name="ToMe everywhere (AT-EDM benchmark)",
            category="AT-EDM/benchmark",
            description="Token merging in self-attention, cross-attention and feed-forward, at every level.",
            inputs=[
                io.Model.Input("model"),
                io.Float.Input("ratio", default=0.5, min=0.0, max=MOST, step=0.01, tooltip="Share of tokens merged."),
            ],
            outputs=[io.Model.Output()],
            is_dev_only=True,
        )

    @classmethod
    def execute(cls, model: Any, ratio: float) -> io.NodeOutput:
        return io.NodeOutput(merge_everywhere(model, ratio))


class Merging:
    """How the layer that runs right now merges; layers run one after the other, so one slot is enough."""

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self.merge: Callable[[Any], Any] = _same
        self.unmerge: Callable[[Any], Any] = _same

    def before_self_attention(self, q: Any, k: Any, v: Any, extra_options: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Match the tokens of this layer, and merge them."""
        height, width = extra_options["activations_shape"][-2:]
        merged = int(q.shape[1] * self._ratio)
        self.merge, self.unmerge = bipartite_soft_matching_random2d(q, width, height, STRIDE, STRIDE, merged)
        return self.merge(q), self.merge(k), self.merge(v)

    def before_cross_attention(self, q: Any, k: Any, v: Any, extra_options: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Merge those that ask; the text stays."""
        return self.merge(q), k, v

    def after_attention(self, out: Any, extra_options: dict[str, Any]) -> Any:
        """Back to all tokens, for the residual."""
        return self.unmerge(out)


def merge_everywhere(model: Any, ratio: float) -> Any:
    """A clone of a MODEL whose layers merge a share of their tokens."""
    patched = model.clone()
    merging = Merging(ratio)
    patched.set_model_attn1_patch(merging.before_self_attention)
    patched.set_model_attn1_output_patch(merging.after_attention)
    patched.set_model_attn2_patch(merging.before_cross_attention)
    patched.set_model_attn2_output_patch(merging.after_attention)
    for name, layer in model.get_model_object("diffusion_model").named_modules():
        if isinstance(layer, BasicTransformerBlock):
            feed_forward = _merged(layer.ff, merging)
            patched.add_object_patch(f"diffusion_model.{name}.ff.forward", feed_forward)
    return patched


def _merged(layer: Any, merging: Merging) -> Callable[[Any], Any]:
    own = type(layer).forward  # not what another patch may have put in its place
    return lambda x: merging.unmerge(own(layer, merging.merge(x)))


def _same(x: Any) -> Any:
    return x
