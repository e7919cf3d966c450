"""Tokens kept and FLOPs saved, over progress and by place."""

from __future__ import annotations

import numpy as np

from .canvas import ACCENT, FILL, INK, MUTED, PAPER, RULE, SERIES, Color, Point, Sheet, text_width
from .record import Groups, RunRecord, Wording, over_progress

_WIDTH = 1278
_MARGIN = 28
_TOP = 176
_ROW = 22
_GROUP = 30
_PLOT_WIDTH = 560
_LEAST_PLOT = 270
_MOST_PLOT = 480
_RIGHT = _MARGIN + _PLOT_WIDTH + 96
_BAR = 246
_SAVED_BAR = 198
_NAME = 96
_SAVED_AT = _RIGHT + _NAME + _BAR + 26


def draw_chart(record: RunRecord, baseline: RunRecord | None) -> np.ndarray:
    """The sheet `[H, W, 3]` of 0 to 1, with the measured speed-up where there is a run without pruning."""
    groups = record.rows()
    rows = sum(_GROUP + _ROW * len(places) for _, places in groups)
    height = _TOP + max(rows + 26, _LEAST_PLOT + 96) + 10
    sheet = Sheet(_WIDTH, height)
    sheet.text((_MARGIN, 24), f"{record.wording.method}: what this run did", 24, bold=True)
    _draw_figures(sheet, record, baseline)
    colors = {name: SERIES[i % len(SERIES)] for i, (name, _) in enumerate(groups)}
    _draw_plot(sheet, record, colors, min(height - _TOP - 106, _MOST_PLOT))
    _draw_bars(sheet, record.wording, groups, colors)
    return sheet.pixels()


def _draw_figures(sheet: Sheet, record: RunRecord, baseline: RunRecord | None) -> None:
    spent, wording = record.spent, record.wording
    shares = [(f"{spent.kept_share:.1%}", f"of tokens {wording.kept}")]
    if wording.part:
        shares.append((f"{spent.saved_share:.1%}", f"of {wording.part} FLOPs saved"))
    shares.append((f"{record.model_saved_share:.1%}", "of the model's FLOPs saved"))
    figures = [*shares, (f"{record.seconds_per_step:.3g} s", f"a step, {record.steps} steps")]
    if (speed := record.speed_up_over(baseline)) is not None:
        figures.append((f"{speed:.2f}x", f"as fast as with {wording.unpruned}"))
    elif record.pruned:
        figures.append((f"{record.ideal_speed_up:.2f}x", "as fast, by its FLOPs"))
    step = (_WIDTH - 2 * _MARGIN) / len(figures)
    for i, (figure, what) in enumerate(figures):
        x = _MARGIN + i * step
        sheet.text((x, 68), figure, 26, SERIES[0] if i < len(shares) else INK, bold=True)
        sheet.text((x, 104), what, 13, MUTED)
    sheet.line([(_MARGIN, 136), (_WIDTH - _MARGIN, 136)], RULE)


def _draw_plot(sheet: Sheet, record: RunRecord, colors: dict[str, Color], height: int) -> None:
    left, top = _MARGIN + 42, _TOP + 6
    width = _PLOT_WIDTH - 42
    sheet.text((_MARGIN, 150), "Over progress", 15, bold=True)

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
    what = f"tokens {record.wording.kept}"
    legend = [(f"{name}, {what}" if len(colors) > 1 else what, color) for name, color in colors.items()]
    for name, places in record.groups():
        _draw_series(sheet, [place(at, tally.kept_share) for at, tally in over_progress(places)], colors[name])
    saved_name = f"{record.wording.place} FLOPs saved" if record.wording.part else "FLOPs saved"
    saved = [place(at, tally.saved_share) for at, tally in over_progress(record.places)]
    _draw_series(sheet, saved, ACCENT)
    _draw_legend(sheet, [*legend, (saved_name, ACCENT)], left, top + height + 50, left + width)


def _draw_series(sheet: Sheet, points: list[Point], color: Color) -> None:
    if len(points) > 1:
        sheet.line(points, color, 2)
    if len(points) <= 60:
        for point in points:
            sheet.dot(point, 3, color)


def _draw_legend(sheet: Sheet, entries: list[tuple[str, Color]], x: float, y: float, right: float) -> None:
    left = x
    for name, color in entries:
        needed = 22 + text_width(name, 12)
        if x > left and x + needed > right:
            x, y = left, y + 20
        sheet.line([(x, y + 7), (x + 16, y + 7)], color, 3)
        sheet.text((x + 22, y), name, 12, INK)
        x += needed + 18


def _draw_bars(sheet: Sheet, wording: Wording, groups: Groups, colors: dict[str, Color]) -> None:
    sheet.text((_RIGHT, 150), f"By {wording.place}", 15, bold=True)
    sheet.text((_RIGHT + _NAME, 153), f"tokens {wording.kept}", 12, MUTED)
    sheet.text((_SAVED_AT, 153), "FLOPs saved", 12, MUTED)
    y = float(_TOP)
    for name, places in groups:
        sheet.text((_RIGHT, y + 6), f"{name[0].upper()}{name[1:]}, {places[0].size} tokens", 12, MUTED)
        y += _GROUP
        for place in places:
            sheet.text((_RIGHT, y + _ROW / 2 - 2), place.name, 13, anchor="lm")
            _draw_bar(sheet, (_RIGHT + _NAME, y), _BAR, place.spent.kept_share, colors[name])
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
