"""The pack, loaded once for all benchmarks: `from ..pack.atedm_core.tokens import kept_tokens`.

A module with a `__path__` is a package, and inside the pack all imports are relative: this name stands for its root.
The root's own `__init__.py` wants ComfyUI and is not run. `atedm_core` and `report` do without ComfyUI; `patches` can
be imported once `host.enter` has run.
"""

from __future__ import annotations

from devtools.layout import ROOT

__path__ = [str(ROOT)]
