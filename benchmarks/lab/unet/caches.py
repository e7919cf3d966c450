"""Three published ways to leave passes through the U-Net out, to compare with: for the lab only, offered to nobody.

Written from the formulas in their papers and the parameters in their descriptions; no line is theirs, and all three
were published for transformers, so what they are on a U-Net is said here.

- **TaylorSeer-Lite**: the last block's output alone is kept, and expanded from differences over a fixed interval.
- **Spectrum**: the same feature as a sum of Chebyshev polynomials of the step, fitted by ridge regression, in growing
  windows.
- **DBCache's gate** (that of First Block Cache too): the first attention block runs, and if its residual is near that
  of the last whole pass, the model's last output stands. A U-Net's blocks differ in shape, so no residual of the other
  blocks can be held; the output is.

The feature is what the U-Net's last block hands to its output layer (norm and convolution), which runs at every step.
A model made here is for one run: its state begins with the first call and is never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ...pack.atedm_core.unet.flops import block_flops, unet_flops
from ..drawing import inputs_noted
from .sdxl import SDXL_LATENT, sdxl

TAPE_KEY = "lab_tape"
"""In `transformer_options`: the `Tape` that passes which end at the gate are told to."""
FIRST_REAL = 3
"""Steps at the beginning that TaylorSeer and the gate leave whole, as AT-EDM's forecasts do."""
SPECTRUM_FIRST_REAL = 5
SPECTRUM_WINDOW = 2.0
SPECTRUM_DEGREE = 4
SPECTRUM_RIDGE = 0.1
SPECTRUM_BLEND = 0.5


class Forecaster(Protocol):
    """Continues a feature `[B, C, h, w]` over the number of the step."""

    def observe(self, step: int, feature: Tensor) -> None:
        """The feature of a whole pass."""

    def expect(self, step: int) -> Tensor:
        """The feature of a later step."""


@dataclass
class Taylor:
    """Taylor expansion from finite differences (TaylorSeer, arXiv 2503.06923).

    Of order m, k steps after the last whole pass, with whole passes N steps apart:
    `F + sum over i to m of D^i F / (i! N^i) k^i`, `D^i F` the difference of `D^(i-1) F` over the last interval.
    Backward differences stand for derivatives, so order 1 is exact on a line and order 2 not quite on a parabola.
    """

    order: int
    _step: int = 0
    _differences: list[Tensor] = field(default_factory=list)

    def observe(self, step: int, feature: Tensor) -> None:
        """Differences of the feature, each over the interval since the last whole pass."""
        found = [feature]
        for before in self._differences[: self.order]:
            found.append((found[-1] - before) / (step - self._step))
        self._step, self._differences = step, found

    def expect(self, step: int) -> Tensor:
        """The sum of the expansion."""
        ahead = step - self._step
        terms = [one * (ahead**i / math.factorial(i)) for i, one in enumerate(self._differences)]
        return torch.stack(terms).sum(0)


@dataclass
class Chebyshev:
    """A fit by Chebyshev polynomials (Spectrum, arXiv 2603.01623), half of it replaced by a line.

    The steps of a run are laid on t from -1 to 1. Coefficients `C = (P' P + ridge I)^-1 P' F` of the features F of all
    whole passes so far, with `P = T_0 .. T_degree` at their t; the forecast is the polynomial at a later t. The
    description of the published program advises to mix it with a line through the last two, half and half.

    Args:
        steps: of the run.
        blend: share of the polynomial, 1 for nothing but it.
    """

    steps: int
    degree: int = SPECTRUM_DEGREE
    ridge: float = SPECTRUM_RIDGE
    blend: float = SPECTRUM_BLEND
    _seen: list[tuple[int, Tensor]] = field(default_factory=list)

    def observe(self, step: int, feature: Tensor) -> None:
        """Keep it."""
        self._seen.append((step, feature))

    def expect(self, step: int) -> Tensor:
        """The fit is linear in the features, so it comes as a weight for each of them."""
        known = self._polynomials([at for at, _ in self._seen])
        normal = known.T @ known + self.ridge * torch.eye(self.degree + 1, dtype=torch.float64)
        weights = self.blend * (self._polynomials([step]) @ torch.linalg.solve(normal, known.T))[0]
        if self.blend < 1.0:
            weights += (1.0 - self.blend) * self._line(step)
        features = torch.stack([feature for _, feature in self._seen])
        return torch.tensordot(weights.to(features.dtype), features, 1)

    def _polynomials(self, steps: list[int]) -> Tensor:
        t = 2.0 * torch.tensor(steps, dtype=torch.float64) / max(self.steps - 1, 1) - 1.0
        degrees = torch.arange(self.degree + 1, dtype=torch.float64)
        return torch.cos(degrees * torch.arccos(t.clamp(-1.0, 1.0))[:, None])

    def _line(self, step: int) -> Tensor:
        weights = torch.zeros(len(self._seen), dtype=torch.float64)
        (before, _), (last, _) = self._seen[-2:]
        slope = (step - last) / (last - before)
        weights[-2], weights[-1] = -slope, 1.0 + slope
        return weights


@dataclass
class FixedInterval:
    """Whole passes at the first steps, then at every so many."""

    interval: int
    first: int = FIRST_REAL

    def real(self, step: int) -> bool:
        """Whether a step is a whole pass; steps are asked for in order."""
        return step < self.first or (step - self.first + 1) % self.interval == 0


@dataclass
class GrowingWindow:
    """Spectrum's: whole passes at the first steps, then at the end of windows, each longer than the one before.

    A window has `floor(N)` steps, and N grows by `growth` with each whole pass that ends one.
    """

    growth: float
    window: float = SPECTRUM_WINDOW
    first: int = SPECTRUM_FIRST_REAL
    _skipped: int = 0

    def real(self, step: int) -> bool:
        """Whether a step is a whole pass; steps are asked for in order, each once."""
        if step < self.first:
            return True
        if (self._skipped + 1) % math.floor(self.window):
            self._skipped += 1
            return False
        self._skipped = 0
        self.window += self.growth
        return True


def taylorseer(model: Any, interval: int, order: int) -> Any:
    """A MODEL with TaylorSeer-Lite."""
    return _forecast(model, lambda steps: (FixedInterval(interval), Taylor(order)))


def spectrum(model: Any, growth: float) -> Any:
    """A MODEL with Spectrum."""
    return _forecast(model, lambda steps: (GrowingWindow(growth), Chebyshev(steps)))


def dbcache(model: Any, threshold: float) -> Any:
    """A MODEL whose passes end after the first attention block where its residual moved by less than a threshold.

    The change is `mean |R - R'| / mean |R'|` from the last whole pass (DBCache and First Block Cache, as described in
    the documentation of cache-dit: residual_diff_threshold, Fn_compute_blocks 1, Bn_compute_blocks 0).
    """
    gates: dict[tuple[int, ...], _Gate] = {}
    unet = model.model.diffusion_model
    block = next(layer for layer in unet.modules() if hasattr(layer, "transformer_blocks"))

    def wrapper(executor: Any, x: Tensor, timesteps: Tensor, *rest: Any, **named: Any) -> Tensor:
        options = _options(rest, named)
        gate = gates.setdefault(tuple(options["cond_or_uncond"]), _Gate(threshold))
        hook = block.register_forward_hook(lambda layer, given, out: gate.see(out - given[0]))
        try:
            answer = gate.answer = executor(x, timesteps, *rest, **named)
        except _Enough:
            assert gate.answer is not None
            answer = gate.answer
            if (tape := options.get(TAPE_KEY)) is not None:
                tape.begun.append(tape.calls.pop())
        finally:
            hook.remove()
        return answer

    return _wrapped(model, wrapper)


def share_to_gate() -> float:
    """What of a pass through SDXL at 1024 px is spent when its first attention block is done."""
    structure = sdxl()
    height, width = SDXL_LATENT
    first = structure.blocks[0]
    half, wide = 320, 640
    # at the latent's size: the first convolution and two residual blocks of two; then, at half of its edge, the
    # convolution that leads there and a residual block that doubles the channels
    above = 9 * 4 * half + 4 * 9 * half * half
    below = 9 * half * half + 9 * half * wide + 9 * wide * wide + half * wide
    macs = (above + below / 4) * height * width
    return (2 * macs + block_flops(first, height * width // 4)) / unet_flops(structure, SDXL_LATENT)


class _Enough(Exception):  # noqa: N818
    """The rest of a pass is not needed."""


@dataclass
class _Gate:
    threshold: float
    answer: Tensor | None = None
    _passes: int = 0
    _residual: Tensor | None = None

    def see(self, residual: Tensor) -> None:
        """The first block's residual of a pass; raises `_Enough` where the last answer is near enough."""
        known = self._residual
        self._passes += 1
        if known is not None and self._passes > FIRST_REAL:
            moved = (residual - known).abs().mean() / known.abs().mean()
            if float(moved) < self.threshold:
                raise _Enough
        self._residual = residual


@dataclass
class _Forecasts:
    plan: FixedInterval | GrowingWindow
    forecaster: Forecaster
    step: int = -1


def _forecast(model: Any, begin: Callable[[int], tuple[FixedInterval | GrowingWindow, Forecaster]]) -> Any:
    runs: dict[tuple[int, ...], _Forecasts] = {}
    unet = model.model.diffusion_model

    def wrapper(executor: Any, x: Tensor, timesteps: Tensor, *rest: Any, **named: Any) -> Tensor:
        options = _options(rest, named)
        part = tuple(options["cond_or_uncond"])
        if part not in runs:
            runs[part] = _Forecasts(*begin(len(options["sample_sigmas"]) - 1))
        run = runs[part]
        run.step += 1
        if not run.plan.real(run.step):
            return unet.out(run.forecaster.expect(run.step).to(x.dtype))
        with inputs_noted(unet.out, lambda feature: run.forecaster.observe(run.step, feature)):
            return executor(x, timesteps, *rest, **named)

    return _wrapped(model, wrapper)


def _options(rest: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """The transformer options among the arguments of the U-Net after the latent and the timesteps."""
    found: dict[str, Any] = named["transformer_options"] if "transformer_options" in named else rest[3]
    return found


def _wrapped(model: Any, wrapper: Any) -> Any:
    from comfy.patcher_extension import WrappersMP

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "lab_cache", wrapper)
    return patched
