#!/usr/bin/env python3
"""The project's one command: makes an environment with a real ComfyUI; runs the demo, the tests, the benchmarks.

Needs Python 3.10 or newer and nothing else. Run it without arguments for help.
"""

from __future__ import annotations

import sys

OLDEST = (3, 10)

if sys.version_info < OLDEST:
    sys.exit("dev.py needs Python %d.%d or newer; this is %s." % (*OLDEST, sys.version.split()[0]))  # noqa: UP031

from devtools.commands import main  # noqa: E402 (an old Python could not even read that module)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
