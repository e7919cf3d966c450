import { addStyle } from "./style.js"

/**
 * A line on a node: what the run is doing, and what it came to.
 *
 * @typedef {import("./texts.js").Texts} Texts
 * @typedef {{ state: string, step?: number, steps?: number, doing?: string, saved?: number, speed_up?: number | null,
 *   reason?: { key: string, values: Record<string, string> } | null }} Told
 */

const MARGIN = 6
const LEAST_HEIGHT = 26

/** @returns {string} what was told, in words */
export function words(/** @type {Told} */ told, /** @type {{ badge: Texts, reason: Texts }} */ texts) {
  const { badge, reason } = texts
  if (told.state === "sampling") {
    return badge.say(told.doing ?? "full", { step: String(told.step), steps: String(told.steps) })
  }
  if (told.state === "saved") {
    const saved = badge.percent(Math.round((told.saved ?? 0) * 100) / 100)
    return told.speed_up
      ? badge.say("measured", { saved, speed: badge.number(told.speed_up, 2) })
      : badge.say("saved", { saved })
  }
  return badge.say(told.state, { reason: told.reason ? reason.say(told.reason.key, told.reason.values) : "" })
}

/** Show on a node what was told of its run. */
export function showBadge(
  /** @type {any} */ node,
  /** @type {Told} */ told,
  /** @type {{ badge: Texts, reason: Texts } | null} */ texts,
) {
  if (!texts) return
  const badge = node.atedmBadge ?? addBadge(node)
  badge.dataset.state = told.state
  badge.textContent = words(told, texts)
  const [width, height] = node.computeSize()
  if (node.size[1] < height) node.setSize([Math.max(width, node.size[0]), height])
}

function addBadge(/** @type {any} */ node) {
  addStyle()
  const place = document.createElement("div") // a node may be higher than it needs to be; the line is not
  const badge = document.createElement("div")
  badge.className = "atedm-badge"
  badge.setAttribute("role", "status")
  place.append(badge)
  const widget = node.addDOMWidget("atedm_badge", "ATEDM_BADGE", place, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true,
    getMinHeight: () => Math.max(LEAST_HEIGHT, badge.offsetHeight) + 2 * MARGIN,
    margin: MARGIN,
  })
  widget.serialize = false
  node.atedmBadge = badge
  return badge
}
