"""What a run under CAT Pruning spent, and why some of its calls computed all tokens. Plain numbers and words."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

from ...atedm_core.dit.flops import TransformerStructure, transformer_flops
from ...report.record import Tally


@dataclass
class CATTally:
    """All calls that the model ran in one run, whoever asked for them.

    Attributes:
        structure: of the model.
        tokens: N, image tokens of one picture.
        calls: however many conditions are in one.
        pruned_calls: those that computed some of the tokens only.
        answered_calls: asked for and answered by another node; they are in no other number.
        timeline: what was spent, by noise level; there a call counts once for every condition in it.
        whole_because: by step, why calls of that step computed all tokens.
        conditions: uuids of all conditions that were seen.
        samples: inputs of the model, over all calls.
        text_tokens: of them together.
        most_bytes: of keys and values held at any time.
        passed: calls that had to run as they are, by the reason.
    """

    structure: TransformerStructure
    tokens: int
    calls: int = 0
    pruned_calls: int = 0
    answered_calls: int = 0
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
        text: int,
        kept: int,
        why_full: str,
        choosing: int = 0,
    ) -> None:
        """Add a call that the model ran.

        Args:
            sigma: noise level.
            step: that the noise level belongs to.
            uuids: of the call's conditions.
            samples: inputs of the model in it.
            text: text tokens of one of them.
            kept: image tokens that one of them computed.
            why_full: why those were all; empty if they were not.
            choosing: FLOPs of choosing them, for each input; those of one picture share a choice, so this is no less
                than it was.
        """
        conditions, pruned = max(1, len(uuids)), not why_full
        full = transformer_flops(self.structure, self.tokens, text)
        flops = transformer_flops(self.structure, self.tokens, text, kept) + choosing
        spent = Tally(conditions, conditions * pruned, *(samples * one for one in (self.tokens, kept, full, flops)))
        with self._lock:
            self.timeline[sigma] = self.timeline.get(sigma, Tally()) + spent
            if why_full:
                self.whole_because[step][why_full] += 1
            self.conditions.update(uuids)
            self.samples += samples
            self.text_tokens += samples * text
            self.calls += 1
            self.pruned_calls += pruned
