"""What a run may leave behind, as plain data to compare: options, wrappers, hooks and attributes of modules, RNGs."""

from __future__ import annotations

import gc
import random
from typing import Any

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


def of_model(model: Any) -> Any:
    """Everything on a MODEL that a run could leave changed."""
    return {
        "options": outline(model.model_options),
        "wrappers": outline(model.wrappers),
        "callbacks": outline(model.callbacks),
        "attachments": outline(model.attachments),
        "object patches": outline(model.object_patches),
        "injections": outline(model.injections),
    }


def of_modules(model: Any, weights: bool) -> Any:
    """Everything on the modules of a MODEL that a run could leave changed; `weights` if nobody may touch those either.

    A LoRA's are written when the model is loaded.
    """
    return {"modules": [_module(module, weights) for module in model.model.modules()]}


def outline(value: Any) -> Any:
    """Nested containers with the identities of what they hold."""
    if isinstance(value, dict):
        return {str(key): outline(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [outline(one) for one in value]
    return value if isinstance(value, (int, float, str, bool)) else id(value)


def _module(module: Any, weights: bool) -> Any:
    there = vars(module)
    held = [(one.data_ptr(), one._version) for one in there["_parameters"].values() if weights and one is not None]
    return id(module), [len(there[name]) for name in HOOKS], frozenset(there), held


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
