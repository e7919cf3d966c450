"""What a run may leave behind, as plain data to compare: options, wrappers, hooks and attributes of modules, RNGs."""

from __future__ import annotations

import gc
import random
from typing import Any


def of_model(model: Any) -> Any:
    """Everything on a MODEL and its modules that a run could leave changed."""
    return {
        "options": outline(model.model_options),
        "wrappers": outline(model.wrappers),
        "callbacks": outline(model.callbacks),
        "attachments": outline(model.attachments),
        "object patches": outline(model.object_patches),
        "injections": outline(model.injections),
        "modules": [_module(module) for module in model.model.modules()],
        "weights": [(weight.data_ptr(), weight._version) for weight in model.model.parameters()],
    }


def outline(value: Any) -> Any:
    """Nested containers with the identities of what they hold."""
    if isinstance(value, dict):
        return {str(key): outline(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [outline(one) for one in value]
    return value if isinstance(value, (int, float, str, bool)) else id(value)


def _module(module: Any) -> Any:
    hooks = [len(value) for name, value in vars(module).items() if name.endswith("_hooks")]
    return id(module), hooks, "forward" in vars(module), sorted(name for name in vars(module) if name != "forward")


def of_random_numbers() -> Any:
    """State of every generator that the process shares."""
    import numpy
    import torch

    kind, keys, *rest = numpy.random.get_state()
    return random.getstate(), (str(kind), list(keys), *rest), torch.get_rng_state().tolist()


def left_runs(host: Any) -> list[str]:
    """Classes of the pack's runs of which an object is still there."""
    places: tuple[str, ...] = ("patches.unet.run.PruneRun", "patches.dit.run.CATRun", "patches.steps.run.ForecastRun")
    places += ("patches.steps.auto.AutoRun", "patches.dit.kv_cache.CallMemory", "patches.unet.memory.Ranking")
    kinds = tuple(getattr(host.module(place.rpartition(".")[0]), place.rpartition(".")[2]) for place in places)
    gc.collect()
    return [type(one).__name__ for one in gc.get_objects() if isinstance(one, kinds)]
