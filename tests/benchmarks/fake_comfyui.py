"""A ComfyUI that draws noise at once, and can be told to fail in every way that a real one does."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

APPLY_INPUTS = {
    "prune_ratio": ["FLOAT", {"default": 0.63}],
    "selection": ["COMBO", {"default": "stratified"}],
    "recovery": ["COMBO", {"default": "regression"}],
    "stand_in": ["COMBO", {"default": "cosine"}],
    "iterations": ["INT", {"default": 1}],
    "prune_from": ["COMBO", {"default": "after first layer"}],
}
PLAIN = ("CLIPTextEncode", "EmptyLatentImage", "VAEDecode", "PreviewImage", "PreviewAny", "ATEDMSchedule")

Workflow = dict[str, dict[str, Any]]


class _GoneError(Exception):
    """The connection is cut without an answer."""


class FakeComfyUI:
    """A server; what it drew is in `drawn`.

    Attributes:
        nodes: what /object_info says.
        fails: for which workflows the run ends with an error.
        seconds: that a picture takes.
        dies_after: pictures after which it is gone while it draws the next one.
        mood: `hangs`, `forgets` or `garbles`, or empty.
        on_picture: called with the number of pictures begun.
        cancelled: what it was asked to take back.
    """

    def __init__(self, checkpoint: str = "sdxl.safetensors", port: int = 0) -> None:
        empty: dict[str, Any] = {"input": {}}
        self.nodes: dict[str, Any] = dict.fromkeys(PLAIN, empty)
        self.nodes |= dict.fromkeys(("ATEDMBudget", "ATEDMBenchToMe"), empty)
        self.nodes["ATEDMApply"] = {"input": {"required": APPLY_INPUTS}}
        # the two ways in which ComfyUI writes a choice
        self.nodes["CheckpointLoaderSimple"] = {"input": {"required": {"ckpt_name": [[checkpoint], {}]}}}
        choices = {"sampler_name": ["COMBO", {"options": ["euler"]}], "scheduler": [["normal", "karras"], {}]}
        self.nodes["KSampler"] = {"input": {"required": choices}}
        self.fails: Callable[[Workflow], bool] = lambda workflow: False
        self.seconds = 0.0
        self.dies_after: int | None = None
        self.mood = ""
        self.on_picture: Callable[[int], None] = lambda count: None
        self.cancelled: list[str] = []
        self.drawn: list[Workflow] = []
        self._history: dict[str, Any] = {}
        self._queued: dict[str, tuple[Workflow, float]] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.address = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Nothing listens any more."""
        self._server.shutdown()
        self._server.server_close()

    def prompts(self) -> list[tuple[str, int]]:
        """Caption and seed of every picture drawn."""
        return [(one["positive"]["inputs"]["text"], one["sample"]["inputs"]["seed"]) for one in self.drawn]

    def answer(self, path: str, query: dict[str, list[str]], body: Any) -> Any:
        """The answer to a request, as JSON or bytes."""
        with self._lock:
            if path == "/system_stats":
                return {"devices": [{"name": "fake"}], "system": {}}
            if path == "/object_info":
                return self.nodes
            if path == "/prompt":
                return self._queue(body["prompt"])
            if path.startswith("/history/"):
                return self._finished(path.rsplit("/", 1)[1])
            if path == "/queue":
                self.cancelled += (body or {}).get("delete", [])
                running = [] if self.mood == "forgets" else [[0, name] for name in self._queued]
                return {"queue_running": running, "queue_pending": []}
            if path == "/view":
                png = _png(json.loads(query["filename"][0]))
                return png[: len(png) // 2] if self.mood == "garbles" else png
            return {}

    def _queue(self, workflow: Workflow) -> Any:
        name = hashlib.sha1(f"{json.dumps(workflow)} {time.monotonic_ns()}".encode()).hexdigest()
        if "sample" in workflow:
            self.on_picture(len(self.drawn) + 1)
        self._queued[name] = (workflow, time.monotonic() + self.seconds)
        return {"prompt_id": name, "node_errors": {}}

    def _finished(self, name: str) -> Any:
        if name in self._history:
            return {name: self._history[name]}
        if name not in self._queued:
            return {}
        workflow, ready = self._queued[name]
        picture = "sample" in workflow
        if picture and self.dies_after is not None and len(self.drawn) >= self.dies_after:
            threading.Thread(target=self.close, daemon=True).start()
            raise _GoneError
        if time.monotonic() < ready or (picture and self.mood in ("hangs", "forgets")):
            return {}
        del self._queued[name]
        self._history[name] = self._failure() if self.fails(workflow) else self._success(workflow)
        return {name: self._history[name]}

    def _success(self, workflow: Workflow) -> Any:
        outputs: dict[str, Any] = {"text": {"text": ["a report"]}}
        if "sample" in workflow:
            self.drawn.append(workflow)
            seen = {"text": workflow["positive"]["inputs"]["text"], "nodes": sorted(workflow)}
            seen["apply"] = workflow.get("prune", {}).get("inputs", {})
            outputs = {"show": {"images": [{"filename": json.dumps(seen), "type": "temp"}]}}
        stamps = [["execution_start", {"timestamp": 1000}], ["execution_success", {"timestamp": 3500}]]
        return {"outputs": outputs, "status": {"completed": True, "status_str": "success", "messages": stamps}}

    @staticmethod
    def _failure() -> Any:
        error = {"node_type": "KSampler", "exception_type": "OutOfMemoryError", "exception_message": "not enough"}
        status = {"completed": False, "status_str": "error", "messages": [["execution_error", error]]}
        return {"outputs": {}, "status": status}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._give(None)

            def do_POST(self) -> None:
                self._give(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"null"))

            def _give(self, body: Any) -> None:
                url = urlsplit(self.path)
                try:
                    given = fake.answer(url.path, parse_qs(url.query), body)
                except _GoneError:
                    self.close_connection = True
                    return
                content = given if isinstance(given, bytes) else json.dumps(given).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        return Handler


def _png(seen: Any) -> bytes:
    """Noise of the caption, and less noise on top the less the workflow differs from the plain one."""

    def noise(text: str) -> np.ndarray:
        seed = int(hashlib.sha1(text.encode()).hexdigest()[:8], 16)
        return np.random.default_rng(seed).integers(0, 200, (32, 32, 3))

    changed = 0 if "prune" not in seen["nodes"] and "merge" not in seen["nodes"] else 0.1
    pixels = noise(seen["text"]) + changed * noise(json.dumps(seen))
    sink = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(sink, "PNG")
    return sink.getvalue()
