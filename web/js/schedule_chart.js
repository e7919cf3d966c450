import { levelGroups, sparedBlocks, sparedLine } from "./dsap.js"

/**
 * The schedule as a picture: progress from left to right, the share of dropped tokens upwards.
 *
 * @typedef {import("./dsap.js").Schedule} Schedule
 * @typedef {import("./dsap.js").Point} Point
 * @typedef {import("./texts.js").Texts} Texts
 * @typedef {{ width: number, height: number }} Size in CSS pixels
 * @typedef {{ x: (progress: number) => number, y: (ratio: number) => number, left: number, right: number, top: number,
 *   bottom: number }} Axes
 */

const SVG = "http://www.w3.org/2000/svg"
const MARGIN = { left: 38, right: 44, top: 8, bottom: 20 }
const GRID = [0, 0.5, 1]
const LABEL_HEIGHT = 12

/** @param {Record<string, string | number>} attributes */
function shape(/** @type {string} */ name, attributes, /** @type {(SVGElement | string)[]} */ children = []) {
  const element = document.createElementNS(SVG, name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value))
  element.append(...children)
  return element
}

/** @param {string} anchor "start", "middle" or "end" of a small text beside an axis */
function tick(/** @type {string} */ text, /** @type {number} */ x, /** @type {number} */ y, anchor) {
  return shape("text", { class: "tick", x, y, "text-anchor": anchor }, [text])
}

/** @returns {Axes} */
export function axesFor(/** @type {Size} */ size) {
  const { left, top } = MARGIN
  const right = Math.max(left + 1, size.width - MARGIN.right)
  const bottom = Math.max(top + 1, size.height - MARGIN.bottom)
  const x = (/** @type {number} */ progress) => left + progress * (right - left)
  const y = (/** @type {number} */ ratio) => bottom - ratio * (bottom - top)
  return { left, right, top, bottom, x, y }
}

function path(/** @type {Point[]} */ points, /** @type {Axes} */ axes) {
  return points.map(([p, r], index) => `${index ? "L" : "M"}${axes.x(p).toFixed(1)} ${axes.y(r).toFixed(1)}`).join("")
}

/** About how wide a small label is, with a little room. */
function widthOf(/** @type {string} */ text) {
  return [...text].reduce((width, letter) => width + (letter > "\u2e80" ? 10 : 5.3), 6)
}

/** Labels as near to their places as they fit below one another, top first. */
function spread(/** @type {number[]} */ places, /** @type {number} */ lowest) {
  const order = places.map((_, index) => index).sort((a, b) => places[a] - places[b])
  const spots = places.slice()
  order.forEach((index, rank) => {
    if (rank > 0) spots[index] = Math.max(spots[index], spots[order[rank - 1]] + LABEL_HEIGHT)
  })
  let floor = lowest
  for (const index of order.reverse()) {
    spots[index] = Math.min(spots[index], floor)
    floor = spots[index] - LABEL_HEIGHT
  }
  return spots
}

/** Grid, the band of the early phase, and what the axes mean. */
function frame(/** @type {Schedule} */ schedule, /** @type {Axes} */ axes, /** @type {Texts} */ texts) {
  const { left, right, top, bottom } = axes
  const below = bottom + 14
  const parts = [
    ...GRID.map(axes.y).map((y) => shape("line", { class: "grid", x1: left, x2: right, y1: y, y2: y })),
    ...GRID.map((share) => tick(texts.percent(share), left - 5, axes.y(share) + 3.5, "end")),
    tick(texts.say("noise"), left, below, "start"),
    tick(texts.say("picture"), right, below, "end"),
  ]
  if (sparedBlocks(schedule) === "none") return parts
  const early = axes.x(schedule.earlyPercent)
  parts.unshift(shape("rect", { class: "early", x: left, y: top, width: early - left, height: bottom - top }))
  parts.push(shape("line", { class: "edge", x1: early, x2: early, y1: top, y2: bottom }))
  const share = texts.percent(schedule.earlyPercent)
  const free = early - widthOf(share) / 2 > left + widthOf(texts.say("noise"))
  if (free && early + widthOf(share) / 2 < right - widthOf(texts.say("picture"))) {
    parts.push(tick(share, early, below, "middle"))
  }
  const name = texts.say("early")
  if (early - left > widthOf(name)) parts.push(tick(name, (left + early) / 2, top + 11, "middle"))
  return parts
}

/** The lines of all level groups with their final ratios at the right. */
function lines(/** @type {Schedule} */ schedule, /** @type {Axes} */ axes, /** @type {Texts} */ texts) {
  const groups = levelGroups(schedule)
  const spared = sparedBlocks(schedule)
  const heights = groups.map((group) => axes.y(group.full) + 3.5)
  const spots = spread(heights, axes.bottom + 3.5)
  return groups.flatMap((group, index) => {
    const flat = path([[0, group.full], [1, group.full]], axes)
    const solid = path(sparedLine(schedule, group), axes)
    const kind = `${group.levels[0]}-level`
    return [
      shape("path", { class: `area ${kind}`, d: `${solid}L${axes.right} ${axes.bottom}L${axes.left} ${axes.bottom}Z` }),
      ...(spared === "some" ? [shape("path", { class: `others ${kind}`, d: flat })] : []),
      shape("path", { class: `spared ${kind}`, d: solid }),
      shape("text", { class: `value ${kind}`, x: axes.right + 5, y: spots[index] }, [texts.percent(group.full)]),
    ]
  })
}

/** Everything that does not move with the reading cursor. */
export function chart(/** @type {Schedule} */ schedule, /** @type {Size} */ size, /** @type {Texts} */ texts) {
  const axes = axesFor(size)
  return [...frame(schedule, axes, texts), ...lines(schedule, axes, texts)]
}

/** @returns {SVGElement} the reading cursor */
export function cursorLine(/** @type {number} */ progress, /** @type {Size} */ size) {
  const axes = axesFor(size)
  const x = axes.x(progress)
  return shape("line", { class: "cursor", x1: x, x2: x, y1: axes.top, y2: axes.bottom })
}

/** The progress at `x`, in CSS pixels from the left of the drawing. */
export function progressAt(/** @type {number} */ x, /** @type {Size} */ size) {
  const axes = axesFor(size)
  return Math.min(1, Math.max(0, (x - axes.left) / (axes.right - axes.left)))
}
