import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"
import { eachNode, keep, kept, nodeOf } from "./kept.js"
import { showBadge } from "./run_badge.js"
import { addReport } from "./run_report.js"
import { MIN_HEIGHT, schedulePlot } from "./schedule_plot.js"
import { textsFrom } from "./texts.js"

const VERSION = "0.1.0" // of pyproject.toml; a test compares the two
const REPOSITORY = "https://github.com/at-edm/ComfyUI-AT-EDM"
const NODE_WIDTH = 320
const PLOT_MARGIN = 10

/** @type {Record<string, any> | null} */
let translations = null
/** @type {Record<string, any> | null} */
let texts = null

/** The texts in the language set right now, by section; `null` until the translations have come. */
function currentTexts() {
  const locale = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en"
  if (translations && texts?.locale !== locale) {
    const section = (/** @type {string} */ name) => textsFrom(translations ?? {}, locale, name)
    texts = Object.fromEntries(["plot", "badge", "reason", "report"].map((name) => [name, section(name)]))
    texts.locale = locale
  }
  return texts
}

const graph = () => app.rootGraph ?? app.graph

/** A run spoke: on the node that it is about, if its workflow is open, and later when it is opened again. */
function hear(/** @type {any} */ { workflow, node: number, ...told }) {
  if (told.state !== "sampling") keep(workflow, number, told)
  const node = workflow === graph()?.id ? nodeOf(graph(), number) : null
  if (node) showBadge(node, told, currentTexts())
}

/** What nodes were told before this workflow was opened. */
function tellAgain() {
  const id = graph()?.id
  eachNode(graph(), (node, number) => {
    const told = kept(id, number)
    if (node.atedmShow) node.atedmShow(told)
    else if (told) showBadge(node, told, currentTexts())
  })
}

const address = (/** @type {any} */ picture) => api.apiURL(`/view?${new URLSearchParams(picture)}`)

/** A report's node shows what its run came to, and keeps it. */
function addReportPanel(/** @type {any} */ node) {
  addReport(node, currentTexts, address)
  const executed = node.onExecuted
  node.onExecuted = function (/** @type {any} */ output, /** @type {any[]} */ ...given) {
    const [run] = output?.atedm_report ?? []
    if (run) {
      node.atedmShow(run)
      eachNode(graph(), (one, number) => one === node && keep(graph().id, number, run))
    }
    return executed?.call(this, output, ...given)
  }
}

/** Hand wheel and middle button to the canvas, as if the plot were drawn on it. Nodes 2.0 does that by itself. */
function passToCanvas(/** @type {HTMLElement} */ element) {
  const canvas = () => (globalThis.LiteGraph?.vueNodesMode ? null : app.canvas)
  element.addEventListener("wheel", (event) => canvas()?.processMouseWheel(event), { passive: false })
  element.addEventListener("pointerdown", (event) => event.button === 1 && canvas()?.processMouseDown(event))
  element.addEventListener("pointermove", (event) => event.buttons & 4 && canvas()?.processMouseMove(event))
  element.addEventListener("pointerup", (event) => event.button === 1 && canvas()?.processMouseUp(event))
}

/** Put the plot below a schedule node's inputs. It is drawn from them and saved nowhere. */
function addPlot(/** @type {any} */ node) {
  const { element, stop } = schedulePlot(node, () => currentTexts()?.plot ?? null)
  passToCanvas(element)
  const widget = node.addDOMWidget("dsap_plot", "ATEDM_PLOT", element, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true, // the panel at the side would take it off the node
    getMinHeight: () => MIN_HEIGHT + 2 * PLOT_MARGIN,
    margin: PLOT_MARGIN,
  })
  widget.serialize = false
  const removed = node.onRemoved
  node.onRemoved = function (/** @type {any[]} */ ...given) {
    stop()
    return removed?.apply(this, given)
  }
  const [width, height] = node.computeSize()
  node.setSize([Math.max(width, NODE_WIDTH), height])
  requestAnimationFrame(() => app.canvas?.setDirty(true, true)) // until then it lies over the canvas' upper left
}

app.registerExtension({
  name: "AT-EDM",
  aboutPageBadges: [{ label: `AT-EDM v${VERSION}`, url: REPOSITORY, icon: "pi pi-github" }],
  async setup() {
    api.addEventListener("atedm.run", (/** @type {any} */ event) => hear(event.detail))
    translations = await (await api.fetchApi("/i18n")).json()
    tellAgain()
  },
  nodeCreated(/** @type {any} */ node) {
    if (node.comfyClass === "ATEDMSchedule") addPlot(node)
    if (node.comfyClass === "ATEDMReport") addReportPanel(node)
  },
  afterConfigureGraph: tellAgain,
})
