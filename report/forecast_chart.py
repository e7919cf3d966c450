"""Which evaluations were real and which forecast, and by how much forecasts were off."""

from __future__ import annotations

import math
from itertools import pairwise

from .canvas import ACCENT, INK, MUTED, RULE, SERIES, Color, Sheet, text_width
from .record import Evaluation, RunRecord

HEIGHT = 372
_STRIP = 26
_PLOT = 190
_LABELS = 64
_DECADES = (1.0, 0.1, 0.01, 0.001, 0.0001)
REAL: Color = SERIES[0]
FORECAST: Color = ACCENT
PREDICTED: Color = SERIES[2]


def draw_forecasts(sheet: Sheet, record: RunRecord, left: float, top: float, width: float) -> None:
    """Draw on `HEIGHT` pixels from `top` on."""
    evaluations = record.evaluations
    sheet.text((left, top), "Evaluations of the model", 15, bold=True)
    _draw_legend(sheet, left, top + 26)
    start, room = left + _LABELS, width - _LABELS
    slot = room / len(evaluations)
    strip = top + 56
    for number, one in enumerate(evaluations):
        gap = min(4.0, slot / 4)
        at = (start + number * slot + gap / 2, strip)
        sheet.box(at, (slot - gap, _STRIP), REAL if one.real else FORECAST, 3)
    sheet.text((start - 8, strip + _STRIP / 2), "asked", 12, MUTED, anchor="rm")
    plot = strip + _STRIP + 22
    for decade in _DECADES:
        y = _height(decade, plot)
        sheet.line([(start, y), (start + room, y)], RULE)
        sheet.text((start - 8, y), f"{decade:.2%}" if decade < 0.01 else f"{decade:.0%}", 12, MUTED, anchor="rm")

    def middle(number: int) -> float:
        return start + (number + 0.5) * slot

    _draw_predicted(sheet, [(middle(i), one) for i, one in enumerate(evaluations)], plot)
    for number, one in enumerate(evaluations):
        if one.measured is not None:
            sheet.dot((middle(number), _height(one.measured, plot)), 4, REAL)
    _draw_steps(sheet, [(middle(i), one) for i, one in enumerate(evaluations)], plot + _PLOT + 8, slot)
    sheet.text((start + room / 2, plot + _PLOT + 26), "step of the sampler", 12, MUTED, anchor="ma")


def _height(error: float, plot: float) -> float:
    """Where an error stands in a plot whose upper edge is 100 % and whose lower one 0.01 %."""
    lowest = math.log10(_DECADES[-1])
    share = math.log10(min(1.0, max(error, _DECADES[-1]))) / lowest
    return plot + share * _PLOT


def _draw_predicted(sheet: Sheet, placed: list[tuple[float, Evaluation]], plot: float) -> None:
    known = [(x, _height(one.predicted, plot), one.real) for x, one in placed if one.predicted is not None]
    for first, second in pairwise(known):
        sheet.line([first[:2], second[:2]], PREDICTED, 2)
    for x, y, real in known:
        sheet.dot((x, y), 3, PREDICTED if real else FORECAST)


def _draw_steps(sheet: Sheet, placed: list[tuple[float, Evaluation]], y: float, slot: float) -> None:
    """Numbers of steps where each begins, as many as there is room for."""
    begun = [(x, one.step + 1) for i, (x, one) in enumerate(placed) if i == 0 or placed[i - 1][1].step != one.step]
    apart = max(1, math.ceil(26 / max(slot, 1e-6)))
    for x, number in begun[::apart]:
        sheet.text((x, y), f"{number}", 12, MUTED, anchor="ma")


def _draw_legend(sheet: Sheet, x: float, y: float) -> None:
    for name, color in (("real", REAL), ("forecast", FORECAST)):
        sheet.box((x, y + 1), (14, 12), color, 3)
        sheet.text((x + 20, y), name, 12, INK)
        x += 20 + text_width(name, 12) + 20
    sheet.line([(x, y + 7), (x + 16, y + 7)], PREDICTED, 3)
    sheet.text((x + 22, y), "error of a forecast as expected", 12, INK)
    x += 22 + text_width("error of a forecast as expected", 12) + 20
    sheet.dot((x + 6, y + 7), 4, REAL)
    sheet.text((x + 18, y), "as measured at the next real one", 12, INK)
