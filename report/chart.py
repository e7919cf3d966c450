"""Tokens kept and FLOPs saved, over progress and by place; evaluations, real and forecast."""

from __future__ import annotations

import numpy as np

from .canvas import ACCENT, FILL, INK, MUTED, PAPER, RULE, SERIES, Color, Point, Sheet, text_width
from .forecast_chart import HEIGHT, draw_forecasts
from .record import Groups, RunRecord, Wording, over_progress
from .speed import Measured

_WIDTH = 660
_MARGIN = 28
_FIGURES = 3  # in a row
_FIGURE = 72
_FIRST = 68
_LEAST = 28
_ROW = 22
_GROUP = 30
_PLOT = 190
_AROUND_PLOT = 130
_BAR = 262
_SAVED_BAR = 216
_NAME = 100
_SAVED_AT = _MARGIN + _NAME + _BAR + 26


def draw_chart(record: RunRecord, measured: Measured | None, *, dark: bool = False, figures: bool = True) -> np.ndarray:
    """The sheet `[H, W, 3]` of 0 to 1: what matters in `figures`, then tokens and evaluations, whichever there are."""
    groups, shown = record.rows(), _figures(record, measured) if figures else []
    top = _FIRST + -(-len(shown) // _FIGURES) * _FIGURE + 14 if shown else _MARGIN
    bars = top + _PLOT + _AROUND_PLOT + _legend_height(record, groups)
    rows = sum(_GROUP + _ROW * len(places) for _, places in groups)
    below = round(bars + rows + 50 if groups else max(top, _LEAST))
    sheet = Sheet(_WIDTH, below + (HEIGHT if record.evaluations else 0), dark=dark)
    if shown:
        sheet.text((_MARGIN, 24), f"{record.wording.method}: what this run did", 24, bold=True)
        _draw_figures(sheet, shown)
        sheet.line([(_MARGIN, top - 18), (_WIDTH - _MARGIN, top - 18)], RULE)
    if groups:
        colors = {name: SERIES[i % len(SERIES)] for i, (name, _) in enumerate(groups)}
        _draw_plot(sheet, record, colors, top)
        _draw_bars(sheet, record.wording, groups, colors, bars)
    if record.evaluations:
        draw_forecasts(sheet, record, _MARGIN, below, _WIDTH - 2 * _MARGIN)
    return sheet.pixels()


def _figures(record: RunRecord, measured: Measured | None) -> list[tuple[str, str]]:
    spent, wording = record.spent, record.wording
    figures = []
    if measured is not None and record.pruned:
        spread = f"measured, {measured.low:.2f}x to {measured.high:.2f}x"
        figures.append((f"{measured.speed_up:.2f}x", spread))
    figures.append((f"{record.ideal_speed_up:.2f}x", "as fast by its FLOPs"))
    figures.append((f"{record.saved_share:.1%}", "of the model's FLOPs saved"))
    if record.evaluations:
        figures.append((f"{record.real_share:.0%}", "of evaluations real"))
    if record.places:
        figures.append((f"{spent.kept_share:.1%}", f"of tokens {wording.kept}"))
    figures.append((f"{record.seconds_per_step:.3g} s", f"a step, {record.steps} steps"))
    return figures


def _draw_figures(sheet: Sheet, figures: list[tuple[str, str]]) -> None:
    step = (_WIDTH - 2 * _MARGIN) / _FIGURES
    for i, (figure, what) in enumerate(figures):
        row, column = divmod(i, _FIGURES)
        x, y = _MARGIN + column * step, _FIRST + row * _FIGURE
        sheet.text((x, y), figure, 26, SERIES[0] if i == 0 else INK, bold=True)
        sheet.text((x, y + 36), what, 13, MUTED)


def _draw_plot(sheet: Sheet, record: RunRecord, colors: dict[str, Color], start: float) -> None:
    left, top, height = _MARGIN + 42, start + 32, _PLOT
    width = _WIDTH - 2 * _MARGIN - 42
    sheet.text((_MARGIN, start), "Over progress", 15, bold=True)

    def place(progress: float, share: float) -> Point:
        return left + progress * width, top + (1.0 - share) * height

    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        sheet.line([place(0, share), place(1, share)], RULE)
        sheet.text((left - 8, place(0, share)[1]), f"{share:.0%}", 12, MUTED, anchor="rm")
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(progress, 0)
        sheet.text((x, y + 8), f"{progress:.0%}", 12, MUTED, anchor="ma")
    below, middle = top + height + 26, left + width / 2
    sheet.text((middle, below), "sampling progress (0 % is the most noise)", 12, MUTED, anchor="ma")
    for name, places in record.groups():
        _draw_series(sheet, [place(at, tally.kept_share) for at, tally in over_progress(places)], colors[name])
    saved = [place(at, tally.saved_share) for at, tally in over_progress(record.places)]
    _draw_series(sheet, saved, ACCENT)
    entries = zip(_legend(record, len(colors) > 1), [*colors.values(), ACCENT], strict=True)
    for name, (x, y), color in ((name, at, color) for (name, at), color in entries):
        sheet.line([(x, top + height + 57 + y), (x + 16, top + height + 57 + y)], color, 3)
        sheet.text((x + 22, top + height + 50 + y), name, 12, INK)


def _draw_series(sheet: Sheet, points: list[Point], color: Color) -> None:
    if len(points) > 1:
        sheet.line(points, color, 2)
    if len(points) <= 60:
        for point in points:
            sheet.dot(point, 3, color)


def _legend(record: RunRecord, several: bool) -> list[tuple[str, Point]]:
    """What each line is called, and where that stands, from the first one's line down."""
    what = f"tokens {record.wording.kept}"
    names = [f"{name}, {what}" if several else what for name, _ in record.groups()]
    names.append(f"{record.wording.place} FLOPs saved" if record.wording.part else "FLOPs saved")
    left, right = _MARGIN + 42, _WIDTH - _MARGIN
    placed: list[tuple[str, Point]] = []
    x, y = float(left), 0.0
    for name in names:
        needed = 22 + text_width(name, 12)
        if x > left and x + needed > right:
            x, y = left, y + 20
        placed.append((name, (x, y)))
        x += needed + 18
    return placed


def _legend_height(record: RunRecord, groups: Groups) -> float:
    return max((at[1] for _, at in _legend(record, len(groups) > 1)), default=0)


def _draw_bars(sheet: Sheet, wording: Wording, groups: Groups, colors: dict[str, Color], top: float) -> None:
    sheet.text((_MARGIN, top), f"By {wording.place}", 15, bold=True)
    sheet.text((_MARGIN + _NAME, top + 3), f"tokens {wording.kept}", 12, MUTED)
    sheet.text((_SAVED_AT, top + 3), "FLOPs saved", 12, MUTED)
    y = top + 26
    for name, places in groups:
        sheet.text((_MARGIN, y + 6), f"{name[0].upper()}{name[1:]}, {places[0].size} tokens", 12, MUTED)
        y += _GROUP
        for place in places:
            sheet.text((_MARGIN, y + _ROW / 2 - 2), place.name, 13, anchor="lm")
            _draw_bar(sheet, (_MARGIN + _NAME, y), _BAR, place.spent.kept_share, colors[name])
            _draw_bar(sheet, (_SAVED_AT, y), _SAVED_BAR, place.spent.saved_share, ACCENT)
            y += _ROW


def _draw_bar(sheet: Sheet, at: Point, width: float, share: float, color: Color) -> None:
    x, y = at
    sheet.box((x, y + 2), (width, _ROW - 8), FILL, 3)
    sheet.box((x, y + 2), (width * share, _ROW - 8), color, 3)
    text = f"{share:.0%}"
    inside = width * share > text_width(text, 12) + 14
    place = (x + width * share + (-6 if inside else 6), y + _ROW / 2 - 2)
    sheet.text(place, text, 12, PAPER if inside else INK, anchor="rm" if inside else "lm")
