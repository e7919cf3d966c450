import { DEFAULT_RATIO, LEVELS } from "./dsap.js"
import { connectedTo, heldBy } from "./graph_inputs.js"

/**
 * What is known of a schedule before the run.
 *
 * @typedef {object} Reading
 * @property {import("./dsap.js").Schedule} schedule
 * @property {string[]} unknown inputs, as the node names them, that another node gives in the run; drawn as the
 *   widgets have them
 * @property {"default" | "connected" | "several" | "unknown"} source where the prune ratio comes from
 */

/** @returns {{ pruneRatio: number, source: Reading["source"] }} of the AT-EDM Apply that a schedule node leads to */
function readRatio(/** @type {any} */ node) {
  const found = connectedTo(node, "ATEDMApply").map((apply) => heldBy(apply, "prune_ratio"))
  if (found.length === 0) return { pruneRatio: DEFAULT_RATIO, source: "default" }
  if (!found[0].known) return { pruneRatio: DEFAULT_RATIO, source: "unknown" }
  const differ = found.some((held) => !held.known || held.value !== found[0].value)
  return { pruneRatio: found[0].value, source: differ ? "several" : "connected" }
}

/** @returns {Reading} of a schedule node and what it is connected to */
export function readSchedule(/** @type {any} */ node) {
  /** @type {string[]} */
  const unknown = []
  const take = (/** @type {string} */ name) => {
    const held = heldBy(node, name)
    if (!held.known) unknown.push(held.label)
    return held.value
  }
  const { pruneRatio, source } = readRatio(node)
  const schedule = {
    pruneRatio,
    earlyPercent: take("early_percent"),
    earlyRatio: take("early_ratio"),
    earlyBlocks: take("early_blocks"),
    ramp: take("ramp"),
    levelScales: LEVELS.map((name) => take(`${name}_level`)),
  }
  return { schedule, unknown, source }
}
