"""What a run under CAT Pruning spent, and why some of its calls computed all tokens. Plain numbers and words."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

from ...report.record import Tally


@dataclass
class CATTally:
    """All calls of the model in one run, whoever asked for them.

    Attributes:
        calls: of the model, however many conditions are in one.
        pruned_calls: those that computed some of the tokens only.
        timeline: what was spent, by noise level; there a call counts once for every condition in it.
        whole_because: by step, why calls of that step computed all tokens.
        conditions: uuids of all conditions that were seen.
        samples: inputs of the model, over all calls.
        text_tokens: of them together.
        most_bytes: of keys and values held at any time.
        passed: calls that had to run as they are, by the reason.
    """

    calls: int = 0
    pruned_calls: int = 0
    timeline: dict[float, Tally] = field(default_factory=dict)
    whole_because: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    conditions: set[Hashable] = field(default_factory=set)
    samples: int = 0
    text_tokens: int = 0
    most_bytes: int = 0
    passed: Counter[str] = field(default_factory=Counter)
    # Several devices may each run a part of the conditions, one thread per device.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def spent(self) -> Tally:
        """Over the whole run."""
        return sum(self.timeline.values(), Tally())

    def add(
        self,
        sigma: float,
        step: int,
        uuids: tuple[Hashable, ...],
        samples: int,
        text_tokens: int,
        one: Tally,
        whole_because: str | None,
    ) -> None:
        """Add a call.

        Args:
            sigma: noise level.
            step: that the noise level belongs to.
            uuids: of the call's conditions.
            samples: inputs of the model in it.
            text_tokens: of one of them.
            one: what one input spends.
            whole_because: why all tokens are computed; `None` if they are not.
        """
        conditions = max(1, len(uuids))
        spent = Tally(
            calls=conditions * one.calls,
            pruned_calls=conditions * one.pruned_calls,
            tokens=samples * one.tokens,
            kept=samples * one.kept,
            flops_full=samples * one.flops_full,
            flops=samples * one.flops,
        )
        with self._lock:
            self.timeline[sigma] = self.timeline.get(sigma, Tally()) + spent
            if whole_because is not None:
                self.whole_because[step][whole_because] += 1
            self.conditions.update(uuids)
            self.samples += samples
            self.text_tokens += samples * text_tokens
            self.calls += 1
            self.pruned_calls += one.pruned_calls
