"""The servers that draw: one of our own, or those whose addresses were given; what each must have is checked first."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from PIL import Image

from demo.run import own_base
from demo.workflow import Sampling, Workflow
from devtools.client import Client, PromptError, PromptTimeoutError, execution_seconds
from devtools.console import DevError, say
from devtools.layout import Host
from devtools.server import Server

from .checkpoint_file import DEMO_LOADER, LOADER, Checkpoint
from .rows import APPLY, BUDGET, SCHEDULE, TOME, inputs_with_defaults
from .workflows import NODES, PICTURE, probe

TOME_PACK = Path(__file__).resolve().parent / "at_edm_bench_tome"
QUEUE_CHECK_SECONDS = 5.0
CANCEL_SECONDS = 5.0
# the last four: answers of the wrong form; SyntaxError is what Pillow raises over some broken pictures
_BROKEN = (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, SyntaxError)


class ServerLostError(DevError):
    """A server that is gone, does not answer in time, or answers nonsense: another may do its work."""


@dataclass(frozen=True)
class Drawn:
    """A picture as the server sent it, PNG, and the seconds it worked by its own clock."""

    png: bytes
    seconds: float


class Remote(Client):
    """A ComfyUI server that draws pictures.

    Args:
        address: http://host:port.
        checkpoint: that it has to have.
        timeout: seconds for one picture; loading the checkpoint and other people's work on that server count.
    """

    def __init__(self, address: str, checkpoint: Checkpoint, timeout: float) -> None:
        super().__init__(address)
        self.device = "unknown device"
        self.has_tome = False
        self.loader: dict[str, Any] = {}
        self.apply_defaults: dict[str, Any] = {}
        self._checkpoint = checkpoint
        self._timeout = timeout
        self._running: str | None = None

    def check(self, sampling: Sampling) -> None:
        """Learn what it has.

        Raises:
            DevError: it lacks a node, the checkpoint, or the sampler; a `ServerLostError` where it does not answer.
        """
        with _loss(self.address):
            stats = self.get("/system_stats")
            nodes = self.get("/object_info")
            self.device = str((stats.get("devices") or [{"name": "unknown device"}])[0]["name"])
            loader = DEMO_LOADER if self._checkpoint.kind == "demo" else LOADER
            missing = [name for name in (*NODES, loader, APPLY, SCHEDULE, BUDGET) if name not in nodes]
            if missing:
                raise DevError(
                    f"{self.address} lacks the nodes {', '.join(missing)}: install this pack there "
                    "(custom_nodes) and start it again."
                )
            self.has_tome = TOME in nodes
            self.apply_defaults = inputs_with_defaults(nodes[APPLY])
            for name, value in (("sampler_name", sampling.sampler), ("scheduler", sampling.scheduler)):
                _check_choice(self.address, name, value, _options(nodes["KSampler"], name))
            self.loader = self._checkpoint.loader(self._name(nodes[loader]))

    def _name(self, loader: dict[str, Any]) -> str:
        """What this server calls the checkpoint: it may lie in a sub-folder."""
        if self._checkpoint.kind == "demo":
            return ""
        wanted = self._checkpoint.file.name
        offered = [name for name in _options(loader, "ckpt_name") if PureWindowsPath(name).name == wanted]
        if len(offered) != 1:
            there = f"has several of that name ({', '.join(offered)})" if offered else "does not see it"
            raise DevError(
                f"{self.address}: the checkpoint {wanted}: the server {there}. Put it into that server's "
                "models/checkpoints once, or name the folder in its extra_model_paths.yaml, and start it again."
            )
        return offered[0]

    def draw(self, workflow: Workflow) -> Drawn:
        """Run a workflow whose node `PICTURE` shows one picture.

        Raises:
            ServerLostError: the server is gone, too slow, or sent something broken.
            PromptError: the workflow was refused or failed.
        """
        with _loss(self.address):
            entry = self._finish(workflow)
            (image,) = entry["outputs"][PICTURE]["images"]
            png = self.view(image)
            Image.open(io.BytesIO(png)).load()  # a truncated picture fails here
            return Drawn(png, round(execution_seconds(entry), 3))

    def probe(self, size: int) -> None:
        """Load the checkpoint and read its structure.

        Raises:
            DevError: it cannot be loaded, or is no model that this pack prunes.
        """
        try:
            with _loss(self.address):
                self._finish(probe(self.loader, size))
        except PromptError as failure:
            raise DevError(
                f"{self.address} cannot use the checkpoint {self._checkpoint.file.name}: {failure}"
            ) from failure

    def _finish(self, workflow: Workflow) -> dict[str, Any]:
        """Queue a workflow and wait, looking now and then whether the server still knows of it."""
        prompt_id = self._running = self.queue(workflow)
        deadline = time.monotonic() + self._timeout
        while True:
            with suppress(PromptTimeoutError):
                entry = self.wait(prompt_id, min(QUEUE_CHECK_SECONDS, self._timeout))
                self._running = None
                return entry
            if not self._knows(prompt_id):
                raise ServerLostError(f"{self.address} has forgotten a picture: it was started again, or cleared")
            if time.monotonic() > deadline:
                self.cancel()
                raise ServerLostError(f"{self.address} did not finish a picture within {self._timeout:.0f} s")

    def _knows(self, prompt_id: str) -> bool:
        queue = self.get("/queue")
        queued = [entry[1] for entry in (*queue["queue_running"], *queue["queue_pending"])]
        return prompt_id in queued or prompt_id in self.get(f"/history/{prompt_id}")

    def cancel(self) -> None:
        """Take back what was queued last and has not finished; nothing of other people is touched."""
        prompt_id, self._running = self._running, None
        if prompt_id is None:
            return

        def ask() -> None:
            with suppress(OSError, ValueError, http.client.HTTPException):
                self.post("/queue", {"delete": [prompt_id]})
                self.post("/interrupt", {"prompt_id": prompt_id})

        asking = threading.Thread(target=ask, daemon=True)  # it may hang, and nobody wants to wait for it
        asking.start()
        asking.join(CANCEL_SECONDS)


@contextmanager
def _loss(address: str) -> Iterator[None]:
    """Whatever a broken connection or a nonsensical answer raises, as one error."""
    try:
        yield
    except _BROKEN as error:
        reason = getattr(error, "reason", None) or error
        raise ServerLostError(f"{address} does not answer as ComfyUI does: {reason}") from error


def _options(info: dict[str, Any], name: str) -> list[str]:
    """The choices of a combo input, which ComfyUI writes in two ways."""
    kind, *rest = info["input"]["required"][name]
    return list(kind if isinstance(kind, list) else rest[0]["options"])


def _check_choice(address: str, name: str, value: str, options: Sequence[str]) -> None:
    if value not in options:
        raise DevError(f"--{name.removesuffix('_name')} is {value!r}: {address} offers {', '.join(options)}.")


def check_all(remotes: Iterable[Remote], sampling: Sampling) -> None:
    """Check every server.

    Raises:
        DevError: naming everything that is wrong with any of them.
    """
    faults = []
    for remote in remotes:
        try:
            remote.check(sampling)
        except DevError as error:
            faults.append(str(error))
    if faults:
        raise DevError("\n".join(faults) + "\nMend this, or leave that --server out.")


def addresses(given: Sequence[str]) -> list[str]:
    """Addresses in one form, each once.

    Raises:
        DevError: one is no http address.
    """
    for address in given:
        if not address.startswith(("http://", "https://")):
            raise DevError(f"--server is {address!r}: give an address such as http://127.0.0.1:8188.")
    return list(dict.fromkeys(address.rstrip("/") for address in given))


@contextmanager
def own_server(host: Host, checkpoint: Checkpoint, log: Path) -> Iterator[str]:
    """A server of our own for as long as it is needed, with this pack, ToMe, and the checkpoint's folder."""
    with own_base((TOME_PACK,)) as base:
        paths = base / "checkpoint_folder.yaml"
        folder = {"base_path": str(checkpoint.file.resolve().parent), "checkpoints": "."}
        paths.write_text(json.dumps({"checkpoint": folder}), encoding="utf-8")  # JSON is YAML
        say("Starting ComfyUI ...")
        extra = ("--extra-model-paths-config", str(paths))
        with Server(Host(host.comfyui, host.python, base), log, extra=extra) as server:
            say(f"  up after {server.start_seconds:.1f} s at {server.address}; its log: {log}")
            yield server.address
