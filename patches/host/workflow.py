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
    waiting: list[Any] = [_inputs(workflow, node).get(name)]
    seen: set[str] = set()
    while waiting:
        link = waiting.pop(0)
        if is_link(link) and str(link[0]) not in seen:
            source = str(link[0])
            seen.add(source)
            yield signature(workflow, source, known)
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
