"""ComfyUI's own loader and executor in this process, without HTTP: the fast way to test against the real thing."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

PACK = "at-edm"


def enter_comfyui(comfyui: Path, base: Path) -> None:
    """Make `import comfy` work here, on the CPU and in a base folder of its own. Before anything else imports comfy."""
    already = [name for name in ("comfy", "folder_paths", "nodes") if name in sys.modules]
    if already:
        raise RuntimeError(f"{already} imported before the test host was set up")
    # in front of the repository root: the top-level module `nodes` is ComfyUI's
    sys.path.insert(0, str(comfyui))
    importlib.import_module("utils.extra_config")  # as main.py does: later another `utils` would take its place
    from comfy.cli_args import args  # parses no command line unless asked to

    args.cpu = True
    args.use_pytorch_cross_attention = True
    args.disable_api_nodes = True
    args.base_directory = str(base)
    args.database_url = "sqlite:///:memory:"
    import torch

    torch.set_num_threads(1)


@dataclass(frozen=True)
class Run:
    """What one executed workflow left behind."""

    outputs: dict[str, Any]
    events: list[tuple[str, Any]]

    def event_names(self) -> list[str]:
        """The kinds of events that were sent, in order."""
        return [name for name, _ in self.events]


class InProcessHost:
    """A ComfyUI in this process with its core nodes and the given packs."""

    def __init__(self, base: Path) -> None:
        import execution
        import server

        import nodes

        self.base = base
        self.nodes = nodes
        self._execution = execution
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._events: list[tuple[str, Any]] = []
        self._server = server.PromptServer(self._loop)
        self._server.send_sync = self._record
        self._server.client_id = "test"
        self._modules: dict[str, ModuleType] = {}
        self._loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))

    def _record(self, event: str, data: Any, sid: str | None = None) -> None:
        self._events.append((event, data))

    def load_pack(self, folder: Path) -> ModuleType:
        """Load a pack exactly as ComfyUI does; an error if ComfyUI would show it as failed."""
        heard: list[str] = []
        listener = logging.Handler(logging.WARNING)
        listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger().addHandler(listener)
        try:
            loaded = self._loop.run_until_complete(
                self.nodes.load_custom_node(str(folder), module_parent="custom_nodes")
            )
        finally:
            logging.getLogger().removeHandler(listener)
        if not loaded:
            raise RuntimeError(f"ComfyUI could not load {folder}:\n" + "\n".join(heard))
        self._modules[folder.name] = sys.modules[str(folder).replace(".", "_x_")]
        return self._modules[folder.name]

    def module(self, name: str, pack: str = PACK) -> ModuleType:
        """A module of a loaded pack, as the nodes themselves see it: `host.module("patches.unet.apply")`."""
        return importlib.import_module(f"{self._modules[pack].__name__}.{name}")

    def node(self, node_id: str) -> Any:
        """The class behind a node id."""
        return self.nodes.NODE_CLASS_MAPPINGS[node_id]

    def call(self, node_id: str, **inputs: Any) -> tuple[Any, ...]:
        """Run one node by itself as the executor would (defaults filled in, inference mode); returns its outputs."""
        import torch

        kind = self.node(node_id)
        with torch.inference_mode():
            if hasattr(kind, "GET_SCHEMA"):
                given = {**_defaults(kind.GET_SCHEMA().inputs), **inputs}
                result = kind.EXECUTE_NORMALIZED(**given)
                return tuple(result.result or ())
            return tuple(getattr(kind(), kind.FUNCTION)(**inputs))

    def refusal(self, prompt: Mapping[str, Any]) -> str | None:
        """Why ComfyUI would refuse this workflow; None when it accepts it."""
        valid = self._loop.run_until_complete(self._execution.validate_prompt(uuid.uuid4().hex, prompt, None))
        return None if valid[0] else f"{valid[1]} {valid[3]}"

    def run(self, prompt: Mapping[str, Any], executor: Any = None) -> Run:
        """Validate and execute an API-format workflow; raises when ComfyUI refuses it or a node fails.

        Runs with the same `executor` share its cache, as a server's do; without one every run starts with nothing.
        """
        prompt_id = uuid.uuid4().hex
        valid = self._loop.run_until_complete(self._execution.validate_prompt(prompt_id, prompt, None))
        if not valid[0]:
            raise RuntimeError(f"ComfyUI refused the workflow: {valid[1]} {valid[3]}")
        self._events.clear()
        executor = executor or self.executor()
        self._loop.run_until_complete(executor.execute_async(prompt, prompt_id, {"client_id": "test"}, valid[2]))
        if not executor.success:
            errors = [data for kind, data in executor.status_messages if kind == "execution_error"]
            reasons = [f"{data['node_type']}: {data['exception_type']}: {data['exception_message']}" for data in errors]
            raise RuntimeError("The workflow failed: " + "; ".join(reasons))
        return Run(executor.history_result.get("outputs", {}), list(self._events))

    def executor(self, cached_results: int = 0) -> Any:
        """An executor that caches as ComfyUI's classic one does, or `cached_results` results of earlier runs too."""
        types = self._execution.CacheType
        return self._execution.PromptExecutor(
            self._server,
            cache_type=types.LRU if cached_results else types.CLASSIC,
            cache_args={"lru": cached_results, "ram": 0, "ram_inactive": 0},
        )

    def close(self) -> None:
        """Give the event loop back."""
        self._loop.close()


def _defaults(inputs: list[Any]) -> dict[str, Any]:
    return {one.id: one.default for one in inputs if getattr(one, "default", None) is not None}
