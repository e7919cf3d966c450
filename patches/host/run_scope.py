"""One sampling run of a method that was put on a MODEL: its state hangs in the run's own options, and goes with them.

ComfyUI caches MODELs and hands them to several samplers, so nothing of a run may lie on the MODEL. The guider's options
are copied for each run, what a method needs is hung into the copy, and the copy is dropped when the run ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import comfy.model_patcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .sampling import SamplingClock, work_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """What the sampler was asked to do.

    Attributes:
        guider: of the run.
        sampler: of the run.
        options: of the guider, before anything was hung in.
        sigmas: noise levels, falling, one more than there are steps.
        noise: `[B, C, ..., H, W]`.
        work: from `sampling.work_of`.
    """

    guider: Any
    sampler: Any
    options: dict[str, Any]
    sigmas: list[float]
    noise: Tensor
    work: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Of the sampler; SplitSigmas can leave one without any."""
        return len(self.sigmas) - 1

    @property
    def latent(self) -> tuple[int, int]:
        """(height, width) of the latent."""
        return (self.noise.shape[-2], self.noise.shape[-1])


class Run(Protocol):
    """State of one run."""

    def reset(self) -> None:
        """Free everything that takes memory."""


AnyRun = TypeVar("AnyRun", bound=Run)
AnyMethod = TypeVar("AnyMethod")


def put_on(
    model: Any,
    key: str,
    method: object,
    begin: Callable[[Asked], AnyRun],
    hang_in: Callable[[AnyRun, Asked, dict[str, Any]], None],
    conclude: Callable[[AnyRun, Asked, float | None], None],
) -> Any:
    """A clone of a MODEL whose sampling runs go through a method. What lay under `key` before is replaced.

    Args:
        model: a ComfyUI MODEL (ModelPatcher), left as it is.
        key: of the method, in the model's wrappers and attachments.
        method: what it does, fixed when the node runs; `applied` finds it again.
        begin: makes a run's state.
        hang_in: puts it into the model options of the run, a copy that is the run's own.
        conclude: says what the run did. It gets the seconds of the sampling loop, `None` if that did not come to its
            end. What it raises is logged and never replaces the sampler's result.
    """
    patched = model.clone()
    patched.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, key)

    def outer_sample(
        executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any
    ) -> Any:
        guider = executor.class_obj
        original = guider.model_options
        asked = Asked(guider, sampler, original, sigmas.tolist(), noise, work_of(guider, sampler))
        run = begin(asked)
        own_options = comfy.model_patcher.create_model_options_clone(original)
        own_options.setdefault("transformer_options", {})
        clock = SamplingClock()
        clock.listen(own_options, key)
        hang_in(run, asked, own_options)
        seconds = None
        guider.model_options = own_options
        try:
            result = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            seconds = clock.seconds(result)
            return result
        finally:
            guider.model_options = original
            try:
                conclude(run, asked, seconds)
            except Exception:
                logger.warning("%s: the run's report could not be made; the result stands", key, exc_info=True)
            finally:
                run.reset()

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, outer_sample)
    patched.set_attachments(key, method)
    return patched


def applied(model: Any, key: str, kind: type[AnyMethod]) -> AnyMethod | None:
    """What `put_on` put on a MODEL, or on one that it was cloned from, under `key`; `None` if nothing."""
    found = model.get_attachment(key)
    return found if isinstance(found, kind) else None
