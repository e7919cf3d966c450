"""The pictures that reports show on their node, as files in ComfyUI's temporary folder. The oldest reports' go.

ComfyUI empties that folder when it starts and never before. A server may draw for weeks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import folder_paths

MOST_REPORTS = 64
"""Whose pictures are kept. What a page shows of an older report are its numbers."""

_files: deque[list[Path]] = deque()


def keep_files(saved: Iterable[Mapping[str, Any]]) -> None:
    """Keep what one report has saved, each as ComfyUI names it, and remove what is too old."""
    folder = Path(folder_paths.get_temp_directory())
    _files.append([folder / one["subfolder"] / one["filename"] for one in saved])
    while len(_files) > MOST_REPORTS:
        for file in _files.popleft():
            with suppress(OSError):  # gone already, or held open by whoever looks at it
                file.unlink()
