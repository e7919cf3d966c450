"""The page that asked for what is being executed, and the node on it at which a run may speak.

Only that page is told: another browser at the same server, and another workflow in the same browser, may have a node
of the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .workflow import find_upstream, running_node

EVENT = "atedm.run"


@dataclass(frozen=True)
class Audience:
    """Whom to tell.

    Attributes:
        client: the page, as the server knows it.
        workflow: id of the workflow on it that was queued; empty where the page did not say.
        node: the node to speak at, by its number in what was queued.
    """

    client: str
    workflow: str
    node: str

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send to the page. Where the server is gone, nobody listens."""
        from server import PromptServer

        server = getattr(PromptServer, "instance", None)
        if server is not None:
            server.send_sync(EVENT, {"workflow": self.workflow, "node": self.node, **message}, self.client)


def audience_of(made_by: str | None) -> Audience | None:
    """Who looks at the node of a signature, of which the running node's inputs come; `None` if nobody does."""
    from server import PromptServer

    running, server = running_node(), getattr(PromptServer, "instance", None)
    client = getattr(server, "client_id", None)
    if made_by is None or running is None or client is None:
        return None
    node = find_upstream(*running, made_by)
    return None if node is None else Audience(client, _workflow_id(server), node)


def _workflow_id(server: Any) -> str:
    """Of what is being executed, as the page sent it along."""
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    queued, _ = server.prompt_queue.get_current_queue_volatile()
    extra: dict[str, Any] = next(
        (item[3] for item in queued if context is not None and item[1] == context.prompt_id), {}
    )
    workflow = (extra.get("extra_pnginfo") or {}).get("workflow") or {}
    return str(workflow.get("id") or "")
