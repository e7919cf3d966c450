"""ComfyUI's own frontend in a page of headless Chromium, as the tests speak of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

from devtools.layout import LOGS
from devtools.server import Server

PICTURES = Path(os.environ.get("ATEDM_TEST_LOGS", LOGS)) / "ui"
RENDERERS = {"canvas": False, "nodes-2.0": True}
# A page is there after four seconds and a test waits for tenths of one; a machine with other work takes far longer.
LOAD_MS = 300_000
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)
VIEW = {"width": 1400, "height": 900}
# What this frontend itself says without any pack. Everything else counts against us.
HOST_NOISE = re.compile(
    r"user\.css|api/userdata|legacy queue/history menu|graph accessed before initialization|MaskEditor|huggingface\.co"
)
READY = """() => window.app?.extensionManager && window.app?.graph && document.querySelector('#graph-canvas')
  && app.extensions.some((one) => one.name === 'AT-EDM') && !document.querySelector('#splash-loader')"""
ADD = """([type, x, y]) => { const node = LiteGraph.createNode(type); node.pos = [x, y]; app.graph.add(node);
  return node.id }"""
CONNECT = """([from, output, to, input]) => { const [a, b] = [from, to].map((id) => app.graph.getNodeById(id));
  return Boolean(a.connect(output, b, b.inputs.findIndex((one) => one.name === input))) }"""
SET = """([id, name, value]) => { const node = app.graph.getNodeById(id);
  const widget = node.widgets.find((one) => one.name === name);
  widget.value = value; widget.callback?.(value, app.canvas, node); app.canvas.setDirty(true, true) }"""
# A graph of a new id: the frontend keeps the values of widgets by graph and node.
EMPTY = """() => { app.canvas.deselectAll(); app.nodeOutputs = {}; app.nodePreviewImages = {};
  app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', false);
  return { id: crypto.randomUUID(), version: 0.4, last_node_id: 0, last_link_id: 0, nodes: [], links: [], groups: [],
    config: {}, extra: {} } }"""
NATURAL_SIZE = "() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0]; app.canvas.setDirty(true, true) }"
GLIDE_MS = 600  # what the canvas takes until it shows all nodes
# In the tab that is open: without its name the frontend opens another one each time.
OPEN = """async (workflow) => {
  await app.loadGraphData(workflow, true, true, app.extensionManager.workflow.activeWorkflow) }"""


class Frontend:
    """One page with the frontend in it, in one renderer."""

    def __init__(self, server: Server, browser: Browser, renderer: str, **settings: Any) -> None:
        self.server = server
        self.renderer = renderer
        self.complaints: list[str] = []
        wanted = {
            "Comfy.TutorialCompleted": True,
            "Comfy.VueNodes.Enabled": RENDERERS[renderer],
            "Comfy.ColorPalette": "dark",
            "Comfy.Locale": "en",
            "Comfy.Minimap.Visible": False,
            **settings,
        }
        server.post("/settings", wanted)
        self.context = browser.new_context(viewport=VIEW)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"page error: {error}"))
        self.load()

    def _hear(self, message: ConsoleMessage) -> None:
        said = f"{message.type}: {message.text} ({message.location.get('url', '')})"
        if message.type in ("error", "warning") and not HOST_NOISE.search(said):
            self.complaints.append(said)

    def load(self) -> None:
        """Open the page, or open it again."""
        self.page.goto(self.server.address, wait_until="domcontentloaded", timeout=LOAD_MS)
        self.page.wait_for_function(READY, timeout=LOAD_MS)
        self.page.wait_for_function("() => document.querySelectorAll('.p-dialog-mask').length === 0")

    def close(self) -> None:
        """Close it for good."""
        self.context.close()

    def js(self, code: str, argument: Any = None) -> Any:
        """The value of a JavaScript function called in the page."""
        return self.page.evaluate(code, argument)

    def wait(self, code: str, argument: Any = None) -> None:
        """Wait until a JavaScript function returns something true."""
        self.page.wait_for_function(code, arg=argument)

    def clear(self) -> None:
        """An empty graph at its natural size."""
        self.page.keyboard.press("Escape")
        self.open(self.js(EMPTY))
        self.js(NATURAL_SIZE)

    def open(self, workflow: dict[str, Any]) -> None:
        """Open a saved workflow."""
        self.js(OPEN, workflow)

    def side_panel(self, opened: bool) -> None:
        """Show or hide the panel at the right that repeats the inputs of the selected node."""
        self.js("(opened) => app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', opened)", opened)
        expect(self.page.get_by_test_id("properties-panel")).to_have_count(int(opened))

    def add(self, kind: str, x: int = 100, y: int = 100) -> int:
        """A new node and its id."""
        return int(self.js(ADD, [kind, x, y]))

    def connect(self, source: int, target: int, name: str, output: int = 0) -> None:
        """A link from an output to the input of that name."""
        assert self.js(CONNECT, [source, output, target, name]), f"nothing connected to {name}"

    def set(self, node: int, name: str, value: Any) -> None:
        """Give an input a value, as a widget does."""
        self.js(SET, [node, name, value])

    def prompt(self) -> dict[str, Any]:
        """What would be queued: the API-format workflow by node id."""
        return dict(self.js("async () => (await app.graphToPrompt()).output"))

    def workflow(self) -> dict[str, Any]:
        """What would be saved."""
        return dict(self.js("() => JSON.parse(JSON.stringify(app.graph.serialize()))"))

    def fit(self) -> None:
        """All nodes in view, once the canvas has come to rest."""
        self.js("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(GLIDE_MS)

    def node_types(self) -> list[str]:
        """The types of all nodes in the graph."""
        return list(self.js("() => app.graph._nodes.map((node) => node.type)"))

    def screen_place(self, node: int, x: float, y: float) -> tuple[float, float]:
        """Where on the page a place of a node is, given from the upper left of its body."""
        place = "([id, x, y]) => { const at = app.graph.getNodeById(id).pos; const s = app.canvas.ds;\
            const box = app.canvas.canvas.getBoundingClientRect();\
            return [0, 1].map((i) => [box.x, box.y][i] + (at[i] + [x, y][i] + s.offset[i]) * s.scale) }"
        left, top = self.js(place, [node, x, y])
        return float(left), float(top)

    def plot(self) -> Locator:
        """The schedule's plot; there must be one."""
        return self.page.locator(".atedm-plot")

    def picture(self, target: Path) -> None:
        """A screenshot of the page."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(target))
