"""A prune ratio that remembers for which size of picture it was planned."""

from __future__ import annotations


class PlannedRatio(float):
    """A number like any other; `latent` is the (height, width) of the latent that it was planned for."""

    latent: tuple[int, int]

    def __new__(cls, ratio: float, latent: tuple[int, int]) -> PlannedRatio:
        """The ratio for that size."""
        made = super().__new__(cls, ratio)
        made.latent = latent
        return made


def planned_otherwise(ratio: float, latent: tuple[int, int]) -> str:
    """What is wrong with using a ratio at this size, in words; empty where nothing is, or nothing is known."""
    if not isinstance(ratio, PlannedRatio) or ratio.latent == latent:
        return ""
    (height, width), (planned_height, planned_width) = latent, ratio.latent
    return (
        f"prune_ratio {ratio:g} was planned for a latent of {planned_width} x {planned_height}, and this run's is "
        f"{width} x {height}, so it saves another share than was asked for. Connect the run's latent to AT-EDM Budget."
    )
