"""Finding a Chromium to drive: one that is named, one that is installed, or Playwright's own."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge")
PLACES = {
    "darwin": (
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    ),
    "win32": (
        r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
        r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe",
    ),
}
ADVICE = (
    "No Chromium found, so nothing is tested in ComfyUI's frontend. Install one (Debian, Ubuntu: apt install chromium;"
    " anywhere: python -m playwright install chromium), or name one in CHROMIUM_PATH."
)
# a page must not ask anything outside, and a machine without a GPU or a user namespace must do
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


def find_chromium(playwrights_own: str) -> Path | None:
    """The program to start, `None` where there is none. What CHROMIUM_PATH names must be there."""
    named = os.environ.get("CHROMIUM_PATH")
    if named:
        if not Path(named).is_file():
            raise FileNotFoundError(f"CHROMIUM_PATH is {named}: no such file")
        return Path(named)
    installed = [shutil.which(name) for name in NAMES]
    usual = [os.path.expandvars(place) for place in PLACES.get(sys.platform, ())]
    found = [Path(one) for one in (*installed, *usual, playwrights_own) if one and Path(one).is_file()]
    return found[0] if found else None
