"""ComfyUI's HTTP interface, as far as the demo and the tests need it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from .console import DevError

REQUEST_SECONDS = 60.0
# reaching a server on this machine must not go through a proxy that the environment names
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Prompt = Mapping[str, Mapping[str, Any]]


class PromptError(DevError):
    """A workflow that the server refused or that failed while running."""


class PromptTimeoutError(PromptError):
    """A workflow that did not finish in the time it was given; it may still run."""


class Client:
    """Talks to a running ComfyUI at `address` (http://host:port)."""

    def __init__(self, address: str) -> None:
        self.address = address

    def _open(self, request: str | urllib.request.Request) -> bytes:
        with _OPENER.open(request, timeout=REQUEST_SECONDS) as answer:
            return bytes(answer.read())

    def answers(self) -> bool:
        """Whether the server is up."""
        try:
            self.get("/system_stats")
        except (urllib.error.URLError, OSError, ValueError):
            return False
        return True

    def get_bytes(self, path: str) -> bytes:
        """The raw answer to GET."""
        return self._open(f"{self.address}{path}")

    def get(self, path: str) -> Any:
        """The JSON answer to GET."""
        return json.loads(self.get_bytes(path))

    def post(self, path: str, value: object) -> tuple[int, Any]:
        """Status and JSON answer to POST with a JSON body; a refusal is an answer too, not an exception."""
        body = json.dumps(value).encode()
        request = urllib.request.Request(f"{self.address}{path}", body, {"Content-Type": "application/json"})
        try:
            return 200, json.loads(self._open(request) or b"null")
        except urllib.error.HTTPError as refusal:
            return refusal.code, json.loads(refusal.read() or b"null")

    def queue(self, prompt: Prompt) -> str:
        """Queue an API-format workflow and return its id."""
        status, answer = self.post("/prompt", {"prompt": prompt})
        if status != 200 or answer.get("node_errors"):
            raise PromptError(f"ComfyUI refused the workflow ({status}): {json.dumps(answer)[:2000]}")
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, timeout: float = 600.0) -> dict[str, Any]:
        """Wait for a queued workflow and return its history entry."""
        deadline = time.monotonic() + timeout
        pause = 0.02
        while True:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None and entry.get("status", {}).get("completed") is not None:
                return self._finished(entry)
            if time.monotonic() > deadline:
                raise PromptTimeoutError(f"The workflow did not finish within {timeout:.0f} s.")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    @staticmethod
    def _finished(entry: dict[str, Any]) -> dict[str, Any]:
        if entry["status"].get("status_str") != "success":
            errors = [data for kind, data in entry["status"].get("messages", []) if kind == "execution_error"]
            short = [f"{e.get('node_type')} {e.get('exception_type')}: {e.get('exception_message')}" for e in errors]
            raise PromptError("The workflow failed: " + ("; ".join(short) or json.dumps(entry["status"])[:2000]))
        return entry

    def run(self, prompt: Prompt, timeout: float = 600.0) -> dict[str, Any]:
        """Queue a workflow, wait for it and return its history entry."""
        return self.wait(self.queue(prompt), timeout)

    def view(self, image: Mapping[str, str]) -> bytes:
        """The bytes of an image as a history entry names it."""
        return self.get_bytes("/view?" + urllib.parse.urlencode(image))


def execution_seconds(entry: Mapping[str, Any]) -> float:
    """How long the server worked on a workflow, by its own clock."""
    stamps = {kind: data["timestamp"] for kind, data in entry["status"]["messages"]}
    return float(stamps["execution_success"] - stamps["execution_start"]) / 1000.0
