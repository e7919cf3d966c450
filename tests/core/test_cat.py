"""Which tokens CAT Pruning chooses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from cat_reference import PlainSelector
from hypothesis import given, settings
from hypothesis import strategies as st

from atedm_core.dit import selection
from atedm_core.dit.clusters import cluster_tokens, lattice_rank
from atedm_core.dit.selection import CATSelection, Position, Reference, TieOrder, TokenSelector, with_position

GRID = (12, 10)
TOKENS = GRID[0] * GRID[1]


def noise(seed: int, images: int = 1, grid: tuple[int, int] = GRID, channels: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, grid[0] * grid[1], channels, generator=generator)


def started(options: CATSelection, images: int = 1, grid: tuple[int, int] = GRID, seed: int = 0) -> TokenSelector:
    selector = TokenSelector(options, grid)
    selector.observe(noise(seed, images, grid), full=True)
    selector.observe(noise(seed + 1, images, grid), full=True)
    return selector


def sets_of(selector: TokenSelector, steps: int, seed: int = 100) -> list[torch.Tensor]:
    """The sets of successive pruned steps; unselected tokens keep their noise, selected ones get new noise."""
    held = noise(1, 1, selector.grid)
    found = []
    for step in range(steps):
        chosen = selector.choose()
        new = noise(seed + step, 1, selector.grid)
        held = held.index_copy(1, chosen[0], new[:, chosen[0]])
        selector.observe(held, full=False)
        found.append(chosen)
    return found


@given(
    keep_ratio=st.floats(0.01, 1.0),
    clusters=st.integers(1, 30),
    hot_share=st.floats(0.0, 1.0),
    images=st.integers(1, 3),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    tie_order=st.sampled_from(["raster", "scattered"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_image_gets_exactly_k_different_tokens_in_order(
    keep_ratio: float,
    clusters: int,
    hot_share: float,
    images: int,
    grid: tuple[int, int],
    tie_order: TieOrder,
    seed: int,
) -> None:
    options = CATSelection(keep_ratio, clusters=clusters, hot_share=hot_share, tie_order=tie_order)
    selector = started(options, images, grid, seed)
    for step in range(3):
        chosen = selector.choose()
        assert chosen.shape == (images, options.kept(grid[0] * grid[1]))
        assert (chosen.diff(dim=1) > 0).all()
        assert chosen.min() >= 0
        assert chosen.max() < grid[0] * grid[1]
        selector.observe(noise(seed + 7 + step, images, grid), full=False)


@pytest.mark.parametrize("keep_ratio", [0.1, 0.3, 0.55])
@pytest.mark.parametrize("seed", range(3))
def test_sets_are_those_of_the_description(keep_ratio: float, seed: int) -> None:
    options = CATSelection(keep_ratio, clusters=7)
    selector = started(options, seed=seed * 10)
    reference, latest = noise(seed * 10)[0], noise(seed * 10 + 1)
    labels = cluster_tokens(with_position(latest, GRID, options), GRID, 7).labels[0].tolist()
    used = sorted(set(labels))
    plain = PlainSelector([used.index(label) for label in labels], GRID, options.kept(TOKENS))

    expected = plain.first(latest[0] - reference)
    assert set(selector.choose()[0].tolist()) == expected
    for step in range(6):
        latest = noise(1000 + seed * 10 + step)
        selector.observe(latest, full=False)
        expected = plain.later(latest[0] - reference, expected)
        assert set(selector.choose()[0].tolist()) == expected, f"set {step + 2}"


def test_an_image_does_not_depend_on_its_batch_neighbours() -> None:
    options = CATSelection(clusters=6)
    together, alone = TokenSelector(options, GRID), TokenSelector(options, GRID)
    for step in range(6):
        both = noise(step, images=2)
        together.observe(both, full=step < 2)
        alone.observe(both[1:], full=step < 2)
        if step >= 1:
            assert torch.equal(together.choose()[1:], alone.choose())


def test_every_token_is_recomputed_within_a_few_steps() -> None:
    found = sets_of(started(CATSelection(0.3, clusters=6)), 12)
    last = torch.full((TOKENS,), -1)
    for step, chosen in enumerate(found):
        last[chosen[0]] = step
        if step >= 5:
            assert step - int(last.min()) <= 6


def test_round_robin_alone_visits_all_tokens_before_any_twice() -> None:
    found = sets_of(started(CATSelection(0.25, hot_share=0.0)), 4)
    assert torch.cat(found, dim=1).unique().numel() == TOKENS


def test_scattered_order_covers_the_whole_image_where_raster_starts_at_the_top() -> None:
    raster = started(CATSelection(0.1, hot_share=0.0)).choose()[0]
    assert raster.tolist() == list(range(TOKENS // 10))
    scattered = started(CATSelection(0.1, hot_share=0.0, tie_order="scattered")).choose()[0]
    rows = scattered // GRID[1]
    assert rows.min() < 3
    assert rows.max() >= GRID[0] - 3


def test_the_scattered_order_names_every_place_once() -> None:
    assert lattice_rank((7, 5)).sort().values.tolist() == list(range(35))


def test_the_scattered_order_is_made_once_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []

    def counted(grid: tuple[int, int]) -> torch.Tensor:
        made.append(grid)
        return lattice_rank(grid)

    monkeypatch.setattr(selection, "lattice_rank", counted)
    sets_of(started(CATSelection(0.2, tie_order="scattered")), 5)
    assert made == [GRID]


def test_tokens_that_changed_are_in_the_first_set() -> None:
    calm = noise(0)
    changed = torch.tensor([3, 40, 77])
    stirred = calm.clone()
    stirred[:, changed] += 50.0
    selector = TokenSelector(CATSelection(0.3, clusters=5, cluster_by="change"), GRID)
    selector.observe(calm, full=True)
    selector.observe(stirred, full=True)
    assert set(changed.tolist()) <= set(selector.choose()[0].tolist())


def test_forced_tokens_are_always_in_the_set() -> None:
    selector = started(CATSelection(0.2))
    forced = torch.zeros(1, TOKENS, dtype=torch.bool)
    forced[:, -20:] = True
    assert set(range(TOKENS - 20, TOKENS)) <= set(selector.choose(forced)[0].tolist())


def test_a_full_step_starts_over() -> None:
    selector = started(CATSelection(0.25, hot_share=0.0))
    first = selector.choose()
    selector.observe(noise(3), full=False)
    assert not torch.equal(selector.choose(), first)
    selector.observe(noise(4), full=True)
    assert torch.equal(selector.choose(), first)


def test_a_repeated_step_does_not_become_the_reference() -> None:
    once, twice = (TokenSelector(CATSelection(0.2, clusters=5), GRID) for _ in range(2))
    for selector in (once, twice):
        selector.observe(noise(0), full=True)
    twice.observe(noise(1), full=True)
    for selector in (once, twice):
        selector.observe(noise(2), full=True, again=selector is twice)
    assert torch.equal(once.choose(), twice.choose())


@pytest.mark.parametrize(
    "option",
    [
        {"cluster_by": "change"},
        {"position": "concatenated"},
        {"reference": "last full step"},
        {"hot_share": 0.6},
        {"decay": 0.9},
        {"stale_in_cluster": 0.0},
        {"pooling": "never"},
        {"pooling": "every set"},
        {"tie_order": "scattered"},
        {"clusters": 3},
    ],
    ids=lambda option: "-".join(option),
)
def test_every_option_changes_what_is_chosen(option: dict[str, object]) -> None:
    grid = (24, 24)
    base = CATSelection(0.3)
    usual = sets_of(started(base, grid=grid), 8)
    other = sets_of(started(replace(base, **option), grid=grid), 8)  # type: ignore[arg-type]
    assert any(not torch.equal(a, b) for a, b in zip(usual, other, strict=True))


def test_the_last_full_step_as_reference_needs_one_step_only() -> None:
    reference: Reference = "last full step"
    selector = TokenSelector(CATSelection(reference=reference), GRID)
    assert not selector.ready
    selector.observe(noise(0), full=True)
    assert selector.ready


def test_choosing_too_early_is_an_error() -> None:
    selector = TokenSelector(CATSelection(), GRID)
    selector.observe(noise(0), full=True)
    with pytest.raises(RuntimeError, match="two full steps"):
        selector.choose()


def test_broken_noise_still_gives_k_tokens() -> None:
    selector = TokenSelector(CATSelection(0.3), GRID)
    broken = noise(0)
    broken[:, ::3] = math.nan
    selector.observe(broken, full=True)
    selector.observe(noise(1), full=True)
    assert selector.choose().unique().numel() == CATSelection(0.3).kept(TOKENS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep_ratio": 0.0},
        {"keep_ratio": 1.1},
        {"clusters": 0},
        {"hot_share": -0.1},
        {"decay": 2.0},
        {"pooling": "sometimes"},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        CATSelection(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("position", ["added", "concatenated"])
def test_position_tells_the_corners_apart(position: Position) -> None:
    features = with_position(torch.zeros(1, TOKENS, 4), GRID, CATSelection(position=position))
    rows = features.shape[-1] // 2 - 1 if position == "added" else -2
    assert features[0, 0].abs().sum() == 0
    assert features[0, -1, rows] == pytest.approx((GRID[0] - 1) / GRID[0])
    assert features[0, -1, -1] == pytest.approx((GRID[1] - 1) / GRID[1])
