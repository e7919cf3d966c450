import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"
import { MIN_HEIGHT, schedulePlot } from "./schedule_plot.js"
import { textsFrom } from "./texts.js"

const VERSION = "0.1.0" // of pyproject.toml; a test compares the two
const REPOSITORY = "https://github.com/at-edm/ComfyUI-AT-EDM"
const NODE_WIDTH = 320
const PLOT_MARGIN = 10

/** @type {Record<string, any> | null} */
let translations = null
/** @type {import("./texts.js").Texts | null} */
let texts = null

/** The texts in the language set right now, `null` until the translations have come. */
function currentTexts() {
  const locale = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en"
  if (translations && texts?.locale !== locale) texts = textsFrom(translations, locale)
  return texts
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
  const { element, stop } = schedulePlot(node, currentTexts)
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
    translations = await (await api.fetchApi("/i18n")).json()
  },
  nodeCreated(/** @type {any} */ node) {
    if (node.comfyClass === "ATEDMSchedule") addPlot(node)
  },
})
