import { levelGroups, sparedBlocks } from "./dsap.js"
import { chart, cursorLine, progressAt } from "./schedule_chart.js"
import { readSchedule } from "./schedule_inputs.js"
import { blockNames, caption, describe, levelNames, readout, sharesAt } from "./schedule_words.js"
import { addStyle } from "./style.js"

/**
 * The plot on AT-EDM DSAP Schedule: follows the node's inputs and shows nothing that is not in them.
 *
 * @typedef {import("./texts.js").Texts} Texts
 * @typedef {import("./schedule_inputs.js").Reading} Reading
 * @typedef {{ root: HTMLElement, heading: HTMLElement, legend: HTMLElement, svg: SVGElement, title: SVGElement,
 *   desc: SVGElement, drawing: SVGElement, cursor: SVGElement, note: HTMLElement, table: HTMLTableElement }} Parts
 */

export const MIN_HEIGHT = 215
// Values come from widgets, links, primitives, other nodes, undo and loading: no event covers them all in both
// renderers, and comparing a few numbers costs microseconds.
const LOOK_EVERY_MS = 120
const KEY_STEP = 0.05
const TABLE_ROWS = [0, 0.25, 0.5, 0.75, 1]

let plots = 0

const html = (/** @type {string} */ name, given = {}) => Object.assign(document.createElement(name), given)

const svgElement = (/** @type {string} */ name) => document.createElementNS("http://www.w3.org/2000/svg", name)

/** @returns {Parts} */
function build() {
  const id = `atedm-plot-${++plots}`
  const root = html("div", { className: "atedm-plot" })
  const heading = html("div", { className: "heading" })
  const legend = html("div", { className: "legend" })
  const svg = svgElement("svg")
  const [title, desc, drawing, cursor] = ["title", "desc", "g", "g"].map(svgElement)
  const note = html("p", { className: "note" })
  const table = /** @type {HTMLTableElement} */ (html("table", { className: "unseen" }))
  title.id = `${id}-title`
  desc.id = `${id}-desc`
  svg.setAttribute("role", "img")
  svg.setAttribute("aria-labelledby", title.id)
  svg.setAttribute("aria-describedby", desc.id)
  svg.append(title, desc, drawing, cursor)
  root.tabIndex = 0
  root.setAttribute("role", "group")
  root.setAttribute("aria-labelledby", title.id)
  root.style.minHeight = `${MIN_HEIGHT}px` // Nodes 2.0 asks the element, not the widget
  note.setAttribute("aria-live", "polite")
  for (const seen of [heading, legend]) seen.setAttribute("aria-hidden", "true") // said by title and desc
  root.append(heading, legend, svg, note, table)
  return { root, heading, legend, svg, title, desc, drawing, cursor, note, table }
}

function legendItems(/** @type {Reading} */ reading, /** @type {Texts} */ texts) {
  const { solid, dashed } = blockNames(reading.schedule)
  const groups = levelGroups(reading.schedule)
  const item = (/** @type {string} */ kind, /** @type {string} */ text) => {
    const one = html("span", { className: "item" })
    one.append(html("i", { className: kind }), text)
    return one
  }
  const kinds = [item("line", texts.say(solid)), ...(dashed ? [item("line dashed", texts.say(dashed))] : [])]
  if (groups.length === 1) return kinds
  return [...kinds, ...groups.map((group) => item(`dot ${group.levels[0]}-level`, levelNames(group, texts)))]
}

function fillTable(/** @type {HTMLTableElement} */ table, /** @type {Reading} */ reading, /** @type {Texts} */ texts) {
  const columns = sharesAt(reading.schedule, 0, texts)
  const row = (/** @type {string} */ kind, /** @type {string[]} */ cells) => {
    const line = html("tr")
    line.append(...cells.map((text, index) => html(index ? kind : "th", { textContent: text })))
    return line
  }
  const shares = (/** @type {number} */ at) => sharesAt(reading.schedule, at, texts).map((one) => one.share)
  const head = row("th", [texts.say("progress"), ...columns.map((one) => `${one.blocks}, ${one.levels}`)])
  const body = TABLE_ROWS.map((at) => row("td", [texts.percent(at), ...shares(at)]))
  const heading = html("caption", { textContent: texts.say("title") })
  table.replaceChildren(heading, head, ...body)
}

/** @returns {{ element: HTMLElement, stop: () => void }} a plot for one node. `stop` ends its looking at the node */
export function schedulePlot(/** @type {any} */ node, /** @type {() => Texts | null} */ currentTexts) {
  addStyle()
  const parts = build()
  /** @type {number | null} */
  let at = null
  let drawn = ""

  const size = () => ({ width: parts.svg.clientWidth, height: parts.svg.clientHeight })

  function draw(/** @type {Reading} */ reading, /** @type {Texts} */ texts) {
    const box = size()
    parts.title.textContent = parts.heading.textContent = texts.say("title")
    parts.desc.textContent = describe(reading.schedule, texts)
    parts.legend.replaceChildren(...legendItems(reading, texts))
    parts.drawing.replaceChildren(...chart(reading.schedule, box, texts))
    parts.cursor.replaceChildren(...(at === null ? [] : [cursorLine(at, box)]))
    parts.note.textContent = at === null ? caption(reading, texts) : readout(reading.schedule, at, texts)
    parts.root.dataset.spared = sparedBlocks(reading.schedule)
    fillTable(parts.table, reading, texts)
  }

  /** Nodes 2.0 keeps the element of a node that was replaced by one of the same id, as undo and loading do. */
  function takePlace() {
    document.querySelector(`.atedm-plot[data-gone][data-node="${node.id}"]`)?.replaceWith(parts.root)
  }

  function look() {
    parts.root.dataset.node = String(node.id)
    if (!parts.root.isConnected) takePlace()
    const texts = currentTexts()
    const box = size()
    if (!texts || !node.graph || box.width === 0) return
    const reading = readSchedule(node)
    const state = JSON.stringify([reading, box, at, texts.locale])
    if (state === drawn) return
    drawn = state
    draw(reading, texts)
  }

  function moveTo(/** @type {number | null} */ progress) {
    at = progress
    look()
  }

  parts.svg.addEventListener("pointermove", (event) => {
    const box = parts.svg.getBoundingClientRect() // as it is on the screen: the canvas may be zoomed
    moveTo(progressAt(((event.clientX - box.left) * parts.svg.clientWidth) / box.width, size()))
  })
  parts.svg.addEventListener("pointerleave", () => moveTo(null))
  parts.root.addEventListener("blur", () => moveTo(null))
  parts.root.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -KEY_STEP, ArrowRight: KEY_STEP }[event.key]
    if (event.key === "Escape" && at !== null) moveTo(null)
    else if (steps) moveTo(Math.min(1, Math.max(0, Math.round(((at ?? 0) + (at === null ? 0 : steps)) * 100) / 100)))
    else return
    event.preventDefault()
    event.stopPropagation() // arrow keys move nodes otherwise
  })

  const timer = setInterval(look, LOOK_EVERY_MS)
  function stop() {
    clearInterval(timer)
    parts.root.dataset.gone = ""
  }
  return { element: parts.root, stop }
}
