"""The sub-commands of dev.py."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .console import DevError, clean_environment, say
from .existing_host import prepare
from .layout import PACK_FOLDER, ROOT, Host
from .links import link_folder, make_base, unlink_folder
from .server import free_port, has_accelerator, port_is_free, server_command, server_environment

DEMO_FOLDER = "at-edm-demo"
DEFAULT_PORT = 8188
INTERRUPTED = 130
_IS_COMMAND = 'if __name__ == "__main__":'

OVERVIEW = """\
python dev.py demo            pictures in full and faster, side by side, and what SDXL gains on this machine
python dev.py test            linters, type checks and all tests; with arguments: pytest, with these arguments
                              (--host VERSION in front: on another ComfyUI than the one that is fetched)
python dev.py bench NAME      one benchmark; without a name: which there are
python dev.py fuzz            random configurations against what must always hold; --help shows the options
python dev.py packs           beside the real code of other packs, each fetched at a pinned commit
python dev.py host            ComfyUI with this pack loaded; --help shows the options

The first call makes .venv/ and fetches ComfyUI into .host/ (a few minutes, about 2 GB). To use a ComfyUI that is
there already, set COMFYUI_PATH to its folder (and COMFYUI_PYTHON to its Python, if that is not in or beside it).
"""


def link_packs(base: Path, demo: bool) -> None:
    """Put the pack, and the demo's loader if asked for, where this host looks for packs."""
    make_base(base)
    link_folder(base / "custom_nodes" / PACK_FOLDER, ROOT)
    demo_link = base / "custom_nodes" / DEMO_FOLDER
    if demo:
        link_folder(demo_link, ROOT / "demo")
    else:
        unlink_folder(demo_link)


def run_in_host(host: Host, arguments: Sequence[str], **extra: str) -> int:
    """Run the host's Python from the repository root, with the host's place in the environment."""
    env = clean_environment({**host.environment(), **extra})
    return wait_for(subprocess.Popen([str(host.python), *arguments], cwd=ROOT, env=env))


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. Ctrl-C reaches it too, from the terminal: it is left to end by itself and to tidy up."""
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue
        return INTERRUPTED if code == -signal.SIGINT else code


def host_command(arguments: Sequence[str]) -> int:
    """`dev.py host`: ComfyUI in the foreground."""
    parser = argparse.ArgumentParser(prog="dev.py host", description="Start ComfyUI with this pack loaded.")
    parser.add_argument("--port", type=int, help=f"default: {DEFAULT_PORT}, or a free one where that is taken")
    parser.add_argument("--no-start", action="store_true", help="only prepare everything")
    parser.add_argument("--demo-model", action="store_true", help="also link the loader of the small demo model")
    parser.add_argument("extra", nargs="*", metavar="-- ARGUMENT", help="passed on to ComfyUI")
    options = parser.parse_args(arguments)
    host = prepare()
    link_packs(host.base, options.demo_model)
    if options.no_start:
        say(f"ComfyUI: {host.comfyui}\nPython:  {host.python}\nBase:    {host.base}")
        return 0
    port = options.port or (DEFAULT_PORT if port_is_free(DEFAULT_PORT) else free_port())
    cpu = not has_accelerator(host.python)
    command = server_command(host, port, cpu, options.extra)
    say(f"ComfyUI will be at http://127.0.0.1:{port} in a few seconds. Ctrl-C stops it.")
    say("Its templates are this pack's; ComfyUI's own come with pictures of some hundred megabytes, not fetched here.")
    if options.demo_model:
        say(
            f"The demo model: Templates > {DEMO_FOLDER} > AT-EDM without a checkpoint. Or double-click the canvas and "
            "search for AT-EDM Demo Model."
        )
    return wait_for(subprocess.Popen(command, cwd=host.base, env=server_environment(cpu)))


def demo_command(arguments: Sequence[str]) -> int:
    """`dev.py demo`: see demo/run.py."""
    return run_in_host(prepare(), ["-m", "demo.run", *arguments])


def benchmarks() -> dict[str, str]:
    """Modules by the name of the benchmark, sorted: all with a command of their own, whatever folder they lie in."""
    files = (ROOT / "benchmarks").rglob("*.py")
    found = {file.stem: file for file in files if _IS_COMMAND in file.read_text(encoding="utf-8")}
    return {name: ".".join(found[name].relative_to(ROOT).with_suffix("").parts) for name in sorted(found)}


def bench_command(arguments: Sequence[str]) -> int:
    """`dev.py bench NAME`: one benchmark as a module of its own."""
    modules = benchmarks()
    listing = "\n".join(f"    python dev.py bench {name}" for name in modules)
    if not arguments or arguments[0] in ("-h", "--help"):
        say(f"Benchmarks:\n{listing}")
        return 0
    name, *rest = arguments
    if name not in modules:
        raise DevError(f"There is no benchmark {name!r}. There are:\n{listing}")
    return run_in_host(prepare(dev_tools=True), ["-m", modules[name], *rest])


def test_command(arguments: Sequence[str]) -> int:
    """`dev.py test`: everything, or pytest with arguments."""
    from .testing import run_checks

    return run_checks(arguments)


def fuzz_command(arguments: Sequence[str]) -> int:
    """`dev.py fuzz`: see devtools/fuzz."""
    return run_in_host(prepare(dev_tools=True), ["-m", "devtools.fuzz.run", *arguments], OMP_NUM_THREADS="1")


def packs_command(arguments: Sequence[str]) -> int:
    """`dev.py packs`: see devtools/packs.py."""
    from .packs import packs_command as run

    return run(arguments)


COMMANDS = {
    "host": host_command,
    "demo": demo_command,
    "test": test_command,
    "bench": bench_command,
    "fuzz": fuzz_command,
    "packs": packs_command,
}


def main(arguments: Sequence[str]) -> int:
    """Run the sub-command; errors meant for people are printed without a traceback."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        say(OVERVIEW)
        return 0
    name, *rest = arguments
    command = COMMANDS.get(name)
    if command is None:
        print(f"dev.py does not know {name!r}.\n\n{OVERVIEW}", file=sys.stderr)
        return 2
    os.chdir(ROOT)
    try:
        return command(rest)
    except DevError as error:
        print(f"\nStopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where it stopped.", file=sys.stderr)
        return INTERRUPTED
