"""What a token keeps while it is left out: its clean latent by default, its output as published."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cat_watching import SIZE, Watch, cat, watching
from in_process import InProcessHost
from sample_transformers import sample, shared

CLOSE = 1e-4
NOISY = ("euler_ancestral", "dpmpp_2m_sde")


def followed(
    host: InProcessHost, kind: str, sampler: str, choose_by: str
) -> tuple[list[tuple[float, torch.Tensor, torch.Tensor]], Watch]:
    """Noise level, latent and predicted clean latent of every evaluation, one a step, and the calls."""
    seen: list[tuple[float, torch.Tensor, torch.Tensor]] = []

    def note(args: dict[str, Any]) -> torch.Tensor:
        seen.append((float(args["sigma"][0]), args["input"].clone(), args["denoised"].clone()))
        denoised: torch.Tensor = args["denoised"]
        return denoised

    model = cat(host, shared(kind), choose_by=choose_by)
    model.set_model_sampler_post_cfg_function(note)
    with watching(host) as calls:
        sample(model, kind, sampler=sampler, cfg=1.0, width=SIZE, height=SIZE)
    assert len(calls) == len(seen)
    return seen, calls


def left_out(host: InProcessHost, selected: torch.Tensor, latent: torch.Tensor, patch: int = 2) -> torch.Tensor:
    """Where on the latent the tokens lie that were not computed."""
    clean = host.module("patches.dit.clean")
    grid = (-(-latent.shape[-2] // patch), -(-latent.shape[-1] // patch))
    computed = clean.on_latent(clean.marked(selected, grid[0] * grid[1]), grid, patch, latent)
    return ~computed.expand_as(latent)


@pytest.mark.parametrize("kind", ["sd3", "qwen_image", "pixart_sigma"])
@pytest.mark.parametrize("sampler", NOISY)
def test_a_token_that_is_left_out_keeps_its_clean_latent_whatever_noise_is_added(
    host: InProcessHost, kind: str, sampler: str
) -> None:
    seen, calls = followed(host, kind, sampler, "expected error")
    pruned = [number for number, call in enumerate(calls) if call.selected is not None]
    assert len(pruned) >= 4
    for number in pruned:
        selected, earlier = calls[number].selected, calls[number - 1].selected
        assert selected is not None
        (_, _, before), (_, _, after) = seen[number - 1], seen[number]
        where = left_out(host, selected, after)
        assert 0.5 < where.float().mean() < 0.8
        # one that was computed in the step before may have been given more than its prediction then
        still = where if earlier is None else where & left_out(host, earlier, after)
        assert still.float().mean() > 0.3
        assert torch.equal(after[still], before[still])
        assert not torch.equal(after[~where], before[~where])


def test_a_token_that_waited_is_given_what_the_steps_between_lacked(host: InProcessHost) -> None:
    """Of the same run, with and without: the first tokens that are computed after a wait go further than predicted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host.module("atedm_core.dit.holding"), "MOST_REPAID", 0.0)
        without, _ = followed(host, "sd3", "euler", "expected error")
    seen, calls = followed(host, "sd3", "euler", "expected error")
    first, second = [number for number, call in enumerate(calls) if call.selected is not None][:2]
    (_, _, before), (_, _, predicted), (_, _, given) = seen[first], without[second], seen[second]
    assert torch.equal(seen[first][2], without[first][2])
    waited = left_out(host, calls[first].selected, given) & ~left_out(host, calls[second].selected, given)
    further = (given - predicted)[waited] / (predicted - before)[waited]
    assert waited.float().mean() > 0.1
    assert further.min() > 0.2
    assert further.std() < 0.01 * further.mean(), "by one share of the way, since all waited for one step"
    assert torch.equal(given[~waited], predicted[~waited])


@pytest.mark.parametrize("sampler", NOISY)
def test_as_published_it_keeps_its_velocity_and_added_noise_moves_the_clean_latent(
    host: InProcessHost, sampler: str
) -> None:
    seen, calls = followed(host, "sd3", sampler, "published")
    for number, call in enumerate(calls):
        if call.selected is None:
            continue
        (sigma_before, x_before, clean_before), (sigma, x, clean) = seen[number - 1], seen[number]
        where = left_out(host, call.selected, clean)
        velocity = (x_before - clean_before) / sigma_before
        assert (x - sigma * velocity - clean)[where].abs().max() < CLOSE
        # towards the end little noise is added
        assert (clean - clean_before)[where].abs().mean() > 20 * CLOSE


def test_along_a_straight_line_both_are_the_same(host: InProcessHost) -> None:
    """Euler goes along the velocity, so a clean latent that stays is a velocity that stays."""
    seen, calls = followed(host, "sd3", "euler", "expected error")
    for number, call in enumerate(calls):
        earlier = calls[number - 1].selected
        if call.selected is None or earlier is None:
            continue
        (sigma_before, x_before, clean_before), (sigma, x, clean) = seen[number - 1], seen[number]
        where = left_out(host, call.selected, clean) & left_out(host, earlier, clean)
        velocity = (x_before - clean_before) / sigma_before
        assert (x - sigma * velocity - clean)[where].abs().max() < CLOSE


@pytest.mark.parametrize(("patch", "size"), [(1, (3, 5)), (2, (5, 8)), (2, (7, 9)), (4, (5, 9))])
@pytest.mark.parametrize("frames", [(), (1,)])
def test_tokens_lie_on_the_latent_where_the_grid_says(
    host: InProcessHost, patch: int, size: tuple[int, int], frames: tuple[int, ...]
) -> None:
    """The last patch of a row or column may lie half outside."""
    clean = host.module("patches.dit.clean")
    grid = (-(-size[0] // patch), -(-size[1] // patch))
    tokens = grid[0] * grid[1]
    latent = torch.randn(2, 3, *frames, *size)
    numbers = torch.arange(tokens).float().expand(2, -1)
    plane = clean.on_latent(numbers, grid, patch, latent).expand_as(latent)
    rows = clean.by_token(latent, grid, patch)
    assert rows.shape == (2, tokens, 3 * patch**2)
    for token in (0, 1, tokens - 1):
        row, column = divmod(token, grid[1])
        own = latent[..., row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        assert (plane == token).sum() == own.numel()
        assert rows[:, token].square().sum() == pytest.approx(float(own.square().sum()), rel=1e-5)
