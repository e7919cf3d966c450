"""Where in the user's workflow the code is running: asked of ComfyUI's execution, never of the graph's node numbers.

A node's signature is a digest of what it is and of everything it depends on. A result that ComfyUI answers from its
cache has the signature it had when it was made, whatever happened in between.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from comfy_execution.graph_utils import is_link
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

Workflow = Mapping[str, Mapping[str, Any]]


def running_node() -> tuple[Workflow, str] | None:
    """The workflow that is being executed and the id of its node that is; `None` outside of an execution.

    For a node that another one put into the workflow while it ran, that other node.
    """
    context = get_executing_context()
    state = get_progress_state()
    if context is None or state.prompt_id != context.prompt_id:
        return None
    return state.dynprompt.get_original_prompt(), state.dynprompt.get_real_node_id(context.node_id)


def running_signature() -> str | None:
    """Of the node that is being executed; `None` outside of an execution."""
    running = running_node()
    return None if running is None else signature(*running)


def signature(workflow: Workflow, node: str, known: dict[str, str] | None = None) -> str:
    """The digest of a node and of all it depends on. `known` holds those made already.

    Without recursion, since a workflow may be deeper than Python's stack. A circle, which ComfyUI would refuse, is cut.
    """
    known = {} if known is None else known
    waiting, entered = [node], set()
    while waiting:
        name = waiting[-1]
        entered.add(name)
        sources = [str(value[0]) for value in _inputs(workflow, name).values() if is_link(value)]
        missing = [source for source in sources if source not in known and source not in entered]
        waiting += missing
        if not missing:
            waiting.pop()
            if name not in known:
                known[name] = _digest(workflow, name, known)
    return known[node]


def upstream(workflow: Workflow, node: str, name: str) -> Iterator[str]:
    """Signatures of the nodes that an input depends on, the nearest first."""
    known: dict[str, str] = {}
    for source in _sources(workflow, [_inputs(workflow, node).get(name)]):
        yield signature(workflow, source, known)


def find_upstream(workflow: Workflow, node: str, wanted: str) -> str | None:
    """The nearest node of a signature that a node depends on; `None` if there is none."""
    known: dict[str, str] = {}
    sources = _sources(workflow, list(_inputs(workflow, node).values()))
    return next((source for source in sources if signature(workflow, source, known) == wanted), None)


def _sources(workflow: Workflow, waiting: list[Any]) -> Iterator[str]:
    """Nodes that links lead back to, the nearest first."""
    seen: set[str] = set()
    while waiting:
        link = waiting.pop(0)
        if is_link(link) and str(link[0]) not in seen:
            source = str(link[0])
            seen.add(source)
            yield source
            waiting += _inputs(workflow, source).values()


def _inputs(workflow: Workflow, node: str) -> Mapping[str, Any]:
    inputs: Mapping[str, Any] = workflow.get(node, {}).get("inputs", {})
    return inputs


def _digest(workflow: Workflow, node: str, known: Mapping[str, str]) -> str:
    inputs = {
        name: ["link", known.get(str(value[0])), value[1]] if is_link(value) else value
        for name, value in _inputs(workflow, node).items()
    }
    text = json.dumps([workflow.get(node, {}).get("class_type"), inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
