import { addStyle } from "./style.js"

/**
 * What AT-EDM Report shows on its node: numbers that matter first, in words of the reader's language, then the pictures
 * below each other, light or dark as the interface is.
 *
 * @typedef {import("./texts.js").Texts} Texts
 * @typedef {{ filename: string, subfolder: string, type: string }} Picture
 */

export const SIZE = [680, 920]
const LEAST_HEIGHT = 300

const html = (/** @type {string} */ name, given = {}) => Object.assign(document.createElement(name), given)

/** Whether the interface is dark: its text is lighter than the middle. */
function isDark() {
  const color = getComputedStyle(document.body).getPropertyValue("--input-text").trim()
  const probe = html("span")
  probe.style.color = color || "#ddd"
  document.body.append(probe)
  const [red, green, blue] = (getComputedStyle(probe).color.match(/[\d.]+/g) ?? []).map(Number)
  probe.remove()
  return 0.3 * red + 0.59 * green + 0.11 * blue > 127
}

function figure(/** @type {string} */ number, /** @type {string} */ what, main = false) {
  const one = html("div", { className: main ? "figure main" : "figure" })
  one.append(html("strong", { textContent: number }), html("span", { textContent: what }))
  return one
}

/** @returns {HTMLElement[]} the figures: speed, then distance, then what was left out */
function figures(/** @type {any} */ run, /** @type {Texts} */ say) {
  const speed = (/** @type {number} */ value) => say.number(value, 2)
  const found = []
  if (run.speed) {
    const { low, high, runs, baselines } = run.speed
    const spread = { low: speed(low), high: speed(high), runs: String(runs), baselines: String(baselines) }
    const what = say.say("spread", { ...spread, unpruned: run.unpruned })
    found.push(figure(say.say("speed", { speed: speed(run.speed.speed_up) }), what, true))
  } else {
    const least = String(run.least_runs)
    const how = run.left_out ? say.say("unmeasured", { least, unpruned: run.unpruned }) : ""
    found.push(figure(say.say("ideal", { speed: speed(run.ideal) }), how, true))
  }
  const distances = Object.entries(run.distances)
  for (const [name, { psnr, ssim }] of distances) {
    const near = say.say("distance", { psnr: say.number(psnr, 1), ssim: say.number(ssim, 3) })
    const from = say.say("from_reference")
    found.push(figure(near, name === "alternative" ? `${say.say("alternative")}, ${from}` : from))
  }
  if (!distances.length) found.push(figure("", say.say("no_reference")))
  found.push(figure(say.percent(run.saved), say.say("saved")))
  if (run.tokens !== null) found.push(figure(say.percent(run.tokens), say.say("tokens")))
  if (run.evaluations) {
    const [real, total] = run.evaluations.map(String)
    found.push(figure(say.say("evaluations", { real, total }), say.say("evaluations_real")))
  }
  if (run.error !== null) found.push(figure(say.percent(run.error), say.say("error")))
  const seconds = say.say("seconds", { seconds: say.number(run.seconds, 3) })
  found.push(figure(seconds, say.say("a_step", { steps: String(run.steps) })))
  return found
}

/** Fill a report's panel with what a run told. */
function fill(
  /** @type {HTMLElement} */ panel,
  /** @type {any} */ run,
  /** @type {{ report: Texts, reason: Texts }} */ texts,
  /** @type {(picture: Picture) => string} */ address,
) {
  const { report: say, reason } = texts
  const parts = []
  if (run?.ideal !== undefined) {
    const list = html("div", { className: "figures" })
    list.append(...figures(run, say))
    parts.push(list)
  }
  if (run?.why) parts.push(html("p", { className: "why", textContent: reason.say(run.why.key, run.why.values) }))
  for (const note of run?.notes ?? []) parts.push(html("p", { className: "note", textContent: note }))
  for (const picture of (isDark() ? run?.dark : run?.light) ?? []) {
    const source = address(picture)
    const link = html("a", { href: source, target: "_blank" })
    const sheet = html("img", { src: source, alt: "", draggable: false })
    sheet.addEventListener("error", () => link.remove()) // an old report's pictures are gone
    link.append(sheet)
    parts.push(link)
  }
  if (!parts.length) parts.push(html("p", { className: "note", textContent: say.say("waiting") }))
  panel.replaceChildren(...parts)
}

/** Give a report's node its panel. */
export function addReport(
  /** @type {any} */ node,
  /** @type {() => { report: Texts, reason: Texts } | null} */ currentTexts,
  /** @type {(picture: Picture) => string} */ address,
) {
  addStyle()
  const panel = html("div", { className: "atedm-report" })
  panel.tabIndex = 0
  // a wheel over what can be scrolled is the panel's, any other the canvas'
  panel.addEventListener("wheel", (event) => panel.scrollHeight > panel.clientHeight && event.stopPropagation())
  const widget = node.addDOMWidget("atedm_report", "ATEDM_REPORT", panel, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true,
    getMinHeight: () => LEAST_HEIGHT,
    margin: 8,
  })
  widget.serialize = false
  panel.style.minHeight = `${LEAST_HEIGHT}px`
  node.atedmShow = (/** @type {any} */ run) => {
    const texts = currentTexts()
    if (texts) fill(panel, run, texts, address)
  }
  node.atedmShow(null)
  node.setSize(SIZE)
}
