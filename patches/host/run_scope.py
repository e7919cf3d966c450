"""One sampling run of a method that was put on a MODEL: its state hangs in the run's own options, and goes with them.

ComfyUI caches MODELs and hands them to several samplers, so nothing of a run may lie on the MODEL. The guider's options
are copied for each run, what a method needs is hung into the copy, and the copy is dropped when the run ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import comfy.model_patcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...report.outcome import Outcome
from ...report.record import RunRecord
from ...report.words import Said
from .audience import audience_of
from .finished_runs import keep_record, measured_speed
from .sampling import SamplingClock, work_of
from .step_watch import Doing, StepWatch
from .workflow import running_signature

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


@dataclass(frozen=True)
class Ended:
    """What is to be told of a run that came to its end.

    Attributes:
        record: to keep; `None` where there is nothing to tell.
        reason: why nothing was left out, if nothing was.
        off: nothing was to be left out.
    """

    record: RunRecord | None = None
    reason: Said | None = None
    off: bool = False


class Run(Protocol):
    """State of one run."""

    def doing(self) -> Doing:
        """What was done since this was last asked."""

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
    conclude: Callable[[AnyRun, Asked, float | None], Ended],
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
    _keys.add(key)
    made_by = running_signature()
    patched = model.clone()
    patched.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, key)

    def outer_sample(
        executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any
    ) -> Any:
        guider = executor.class_obj
        original = guider.model_options
        work = (*work_of(guider, sampler), *_others(guider, key))
        asked = Asked(guider, sampler, original, sigmas.tolist(), noise, work)
        run = begin(asked)
        own_options = comfy.model_patcher.create_model_options_clone(original)
        own_options.setdefault("transformer_options", {})
        clock = SamplingClock()
        clock.listen(own_options, key)
        hang_in(run, asked, own_options)
        audience = audience_of(made_by) if asked.steps > 0 else None
        watch = StepWatch(asked.steps, run.doing, audience)
        args, kwargs = watch.listen(args, kwargs)
        seconds = None
        guider.model_options = own_options
        try:
            result = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            seconds = clock.seconds(result)
            return result
        finally:
            guider.model_options = original
            try:
                ended = conclude(run, asked, seconds)
                outcome = _keep(method, ended, watch.step_seconds(clock.began)) if seconds is not None else _INTERRUPTED
                if audience is not None and outcome is not None:
                    audience.tell(outcome.as_json())
            except Exception:
                logger.warning("%s: the run's report could not be made; the result stands", key, exc_info=True)
            finally:
                run.reset()

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, outer_sample)
    patched.set_attachments(key, method)
    return patched


_INTERRUPTED = Outcome("interrupted")
_keys: set[str] = set()


def _others(guider: Any, key: str) -> tuple[str, ...]:
    """The pack's other methods on a run's model: what they are set to decides how long a step takes, too."""
    found = {other: guider.model_patcher.get_attachment(other) for other in sorted(_keys - {key})}
    return tuple(f"{other} {method!r}" for other, method in found.items() if method is not None)


def _keep(method: object, ended: Ended, step_seconds: tuple[float, ...]) -> Outcome | None:
    """Keep a run's record; what its node says of it."""
    if ended.record is None:
        return None
    record = replace(ended.record, step_seconds=step_seconds, reason=ended.reason)
    keep_record(method, record)
    if not record.pruned:
        return Outcome("off" if ended.off else "nothing", reason=ended.reason)
    measured = measured_speed(record)
    return Outcome("saved", record.saved_share, None if measured is None else measured.speed_up)


def applied(model: Any, key: str, kind: type[AnyMethod]) -> AnyMethod | None:
    """What `put_on` put on a MODEL, or on one that it was cloned from, under `key`; `None` if nothing."""
    found = model.get_attachment(key)
    return found if isinstance(found, kind) else None
