"""A sampling run from the outside: how long its loop took, and what else decides how long a step takes."""

from __future__ import annotations

import time
from typing import Any

from comfy.patcher_extension import WrappersMP, add_wrapper_with_key


class SamplingClock:
    """Times the sampling loop of one run, without what comes before it: loading the model."""

    def __init__(self) -> None:
        self._began: float | None = None

    def listen(self, model_options: dict[str, Any], key: str) -> None:
        """Be told when the loop begins, through a run's own options."""
        options = model_options.setdefault("transformer_options", {})
        add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, key, self._note_beginning, options)

    def _note_beginning(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        if self._began is None:
            self._began = time.perf_counter()
        return executor(*args, **kwargs)

    @property
    def began(self) -> float | None:
        """When the loop began, by `time.perf_counter`; `None` if it did not."""
        return self._began

    def seconds(self, result: Any) -> float:
        """Since the loop began. Reading one number of the result waits for the device, as the host is about to."""
        result.flatten()[:1].tolist()
        return time.perf_counter() - self._began if self._began is not None else 0.0


def model_of(guider: Any) -> tuple[str, str]:
    """What a run's model is made of; equal for models that do the same work."""
    model = guider.model_patcher.model
    config = getattr(getattr(model, "model_config", None), "unet_config", None) or {}
    return type(model).__name__, str(sorted((str(name), str(value)) for name, value in config.items()))


def work_of(guider: Any, sampler: Any) -> tuple[str, ...]:
    """What decides how long a step takes besides the model and the picture's size, before the run adds its own."""
    function = getattr(sampler, "sampler_function", sampler)
    conditions = {name: len(given) for name, given in getattr(guider, "conds", {}).items()}
    wrappers = guider.model_options.get("transformer_options", {}).get("wrappers", {})
    return (
        f"sampler {getattr(function, '__name__', type(function).__name__)}",
        f"cfg {getattr(guider, 'cfg', None)}",
        f"conditions {sorted(conditions.items())}",
        f"wrappers {sorted({str(key) for keys in wrappers.values() for key in keys})}",
    )
