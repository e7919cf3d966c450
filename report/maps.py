"""Which tokens were kept where, laid over the picture: one tile per place, one row per group."""

from __future__ import annotations

import numpy as np

from .canvas import MUTED, RULE, Point, Sheet, resized, spread_colors
from .record import PlaceRecord, RunRecord

_MARGIN = 28
_GAP = 14
_TILE = 192
_LONGEST = 288
_COLUMNS = 3
_MOST_TILES = 48
_LABEL = 38
_HEADING = 34
_TOP = 94
_TINT = 0.68

Pixels = np.ndarray
Tile = tuple[int, int]


def draw_maps(record: RunRecord, sample: int, picture: Pixels | None, *, dark: bool = False) -> Pixels:
    """The sheet `[H, W, 3]` of 0 to 1 for one picture of the batch of a run whose maps were recorded.

    `picture` is `[h, w, 3]` of 0 to 1, or `None` for plain maps.
    """
    tile = _tile_size(record.latent)
    shown = [(name, _shown(record, places)) for name, places in record.groups()]
    groups = [(name, places) for name, places in shown if places]
    rows = sum(-(-len(places) // _COLUMNS) for _, places in groups)
    row_height = tile[1] + _LABEL
    width = 2 * _MARGIN + _COLUMNS * tile[0] + (_COLUMNS - 1) * _GAP
    overview = _overview(record)
    tiles = len(overview) + (picture is not None)
    y = _TOP + -(-tiles // _COLUMNS) * row_height + 10
    sheet = Sheet(width, y + rows * row_height + len(groups) * _HEADING + _MARGIN // 2, dark=dark)
    _draw_title(sheet, record, width)
    gray = None if picture is None else resized(picture, 2 * tile[0], 2 * tile[1]).mean(axis=-1, keepdims=True)
    _draw_overview(sheet, overview, sample, picture, gray, tile)
    for name, places in groups:
        _draw_heading(sheet, name, places[0].size, y, width)
        y += _HEADING
        for i, place in enumerate(places):
            at = _MARGIN + i % _COLUMNS * (tile[0] + _GAP), y + i // _COLUMNS * row_height
            sheet.picture(at, tile, _tinted(_share(place, sample), gray, tile), smooth=False)
            share = f"{place.spent.kept_share:.0%}" if place.spent.pruned_calls else "whole"
            _draw_label(sheet, at, tile, place.name, share)
        y += -(-len(places) // _COLUMNS) * row_height
    return sheet.pixels()


def _shown(record: RunRecord, places: tuple[PlaceRecord, ...]) -> tuple[PlaceRecord, ...]:
    """The places of a group that get a tile: all; of a sequence, which may be long, those that left tokens out."""
    if not record.wording.in_sequence:
        return places
    pruned = _pruned(places)
    return pruned[:: -(-len(pruned) // _MOST_TILES)] if pruned else ()


def _pruned(places: tuple[PlaceRecord, ...]) -> tuple[PlaceRecord, ...]:
    return tuple(place for place in places if place.kept_share is not None)


def _tile_size(latent: tuple[int, int]) -> Tile:
    height, width = latent
    return _TILE, max(40, min(_LONGEST, round(_TILE * height / width)))


def _share(place: PlaceRecord, sample: int) -> Pixels:
    """`[h, w]` of 0 to 1; all ones where nothing was left out."""
    if place.kept_share is None:
        return np.ones(place.grid, np.float32)
    return place.kept_share[min(sample, len(place.kept_share) - 1)].float().numpy()


def _tinted(share: Pixels, gray: Pixels | None, tile: Tile) -> Pixels:
    """Colours of a map at twice the tile's size, over the picture in gray if there is one."""
    colors = resized(spread_colors(share), 2 * tile[0], 2 * tile[1], smooth=False)
    return colors if gray is None else _TINT * colors + (1.0 - _TINT) * gray


def _draw_title(sheet: Sheet, record: RunRecord, width: int) -> None:
    sheet.text((_MARGIN, 24), f"Tokens {record.wording.kept}", 24, bold=True)
    spent = record.spent
    what = f"{record.wording.method} · {spent.kept_share:.1%} of tokens computed · {record.steps} steps"
    sheet.text((_MARGIN, 56), what, 14, MUTED)
    bar = 220
    x, y = width - _MARGIN - bar, 34
    sheet.picture((x, y), (bar, 12), spread_colors(np.linspace(0, 1, bar)[None, :]))
    sheet.text((x, y + 18), "0 %", 12, MUTED)
    sheet.text((x + bar / 2, y + 18), "share of model calls", 12, MUTED, anchor="ma")
    sheet.text((x + bar, y + 18), "100 %", 12, MUTED, anchor="ra")


def _overview(record: RunRecord) -> list[tuple[str, tuple[PlaceRecord, ...]]]:
    """Of which places together there is a mean of all maps: of all, and of each group."""
    named = [(f"all {record.wording.place}s", record.places)]
    if not record.wording.in_sequence:
        named += record.groups()
    elif pruned := _pruned(record.places):
        named.append((f"pruned {record.wording.place}s", pruned))
    return named


def _draw_overview(
    sheet: Sheet,
    overview: list[tuple[str, tuple[PlaceRecord, ...]]],
    sample: int,
    picture: Pixels | None,
    gray: Pixels | None,
    tile: Tile,
) -> None:
    """The picture itself, and the means."""
    number = 0

    def place() -> Point:
        row, column = divmod(number, _COLUMNS)
        return _MARGIN + column * (tile[0] + _GAP), _TOP + row * (tile[1] + _LABEL)

    if picture is not None:
        sheet.picture(place(), tile, picture)
        _draw_label(sheet, place(), tile, "picture", "", bold=True)
        number += 1
    for name, places in overview:
        mean = _mean_share(places, sample)
        sheet.picture(place(), tile, _tinted(mean, gray, tile), smooth=False)
        _draw_label(sheet, place(), tile, name, f"{mean.mean():.0%}", bold=True)
        number += 1


def _mean_share(places: tuple[PlaceRecord, ...], sample: int) -> Pixels:
    """`[h, w]`: the mean over places, each counting for as many tokens as it has, on the finest of their grids."""
    height, width = max((place.grid for place in places), key=lambda grid: grid[0] * grid[1])
    weights = [place.grid[0] * place.grid[1] for place in places]
    shares = [_on_grid(_share(place, sample), height, width) for place in places]
    return np.average(shares, axis=0, weights=weights)


def _on_grid(share: Pixels, height: int, width: int) -> Pixels:
    """The value of the coarser token that covers each finer one."""
    rows = np.arange(height) * share.shape[0] // height
    columns = np.arange(width) * share.shape[1] // width
    return share[rows[:, None], columns]


def _draw_heading(sheet: Sheet, name: str, size: str, y: float, width: int) -> None:
    sheet.line([(_MARGIN, y), (width - _MARGIN, y)], RULE)
    sheet.text((_MARGIN, y + 10), f"{name[0].upper()}{name[1:]}", 14, bold=True)
    sheet.text((width - _MARGIN, y + 11), f"{size} tokens", 13, MUTED, anchor="ra")


def _draw_label(sheet: Sheet, at: Point, tile: Tile, name: str, share: str, *, bold: bool = False) -> None:
    x, y = at[0], at[1] + tile[1] + 8
    sheet.text((x, y), name, bold=bold)
    sheet.text((x + tile[0], y), share, 13, MUTED, anchor="ra")
