/**
 * The DSAP schedule in the numbers of the pack's Python (atedm_core/unet/schedule.py); a test compares the two.
 *
 * @typedef {object} Schedule
 * @property {number} pruneRatio 0 to 0.95, the ratio of the AT-EDM Apply that the schedule goes into
 * @property {number} earlyPercent 0 to 1, how long the early phase lasts; progress counts from most to least noise
 * @property {number} earlyRatio 0 to 0.95, the most that the spared blocks are pruned early
 * @property {"stage ends" | "all" | "none"} earlyBlocks which blocks are spared early
 * @property {"step" | "linear" | "cosine"} ramp how spared blocks come to the full ratio
 * @property {number[]} levelScales by level, what the ratio is multiplied with there
 *
 * @typedef {object} LevelGroup Resolution levels that are pruned alike.
 * @property {string[]} levels
 * @property {number} full the ratio once the early phase is over
 * @property {number} low where spared blocks begin
 *
 * @typedef {[number, number]} Point progress and ratio
 */

export const LEVELS = ["full", "half", "quarter", "eighth"]
export const DEFAULT_RATIO = 0.66
export const MAX_RATIO = 0.95

/** How far a ramp has come after a share of the early phase, 0 to 1. */
function risen(/** @type {Schedule["ramp"]} */ ramp, /** @type {number} */ share) {
  if (ramp === "linear") return share
  return ramp === "cosine" ? (1 - Math.cos(Math.PI * share)) / 2 : 0
}

/** The ratio at a level, an index into LEVELS, once the early phase is over. */
function fullRatio(/** @type {Schedule} */ schedule, /** @type {number} */ level) {
  return Math.min(MAX_RATIO, schedule.pruneRatio * (schedule.levelScales[level] ?? 1))
}

/** @returns {"all" | "some" | "none"} whether any, or even every, attention block is spared early */
export function sparedBlocks(/** @type {Schedule} */ schedule) {
  if (schedule.earlyBlocks === "none" || schedule.earlyPercent <= 0) return "none"
  return schedule.earlyBlocks === "all" ? "all" : "some"
}

/**
 * The share of tokens that a block drops.
 * @param {Schedule} schedule
 * @param {number} progress 0 to 1, from most to least noise
 * @param {number} level index into LEVELS
 * @param {boolean} endsStage the block is the first of a down stage or the last of an up stage
 */
export function ratio(schedule, progress, level, endsStage) {
  const full = fullRatio(schedule, level)
  const spared = schedule.earlyBlocks === "all" || (schedule.earlyBlocks === "stage ends" && endsStage)
  if (progress >= schedule.earlyPercent || !spared) return full
  const low = Math.min(schedule.earlyRatio, full)
  return low + (full - low) * risen(schedule.ramp, progress / schedule.earlyPercent)
}

/** @returns {LevelGroup[]} levels of equal ratio together, in the order of LEVELS */
export function levelGroups(/** @type {Schedule} */ schedule) {
  /** @type {Map<number, LevelGroup>} */
  const groups = new Map()
  LEVELS.forEach((name, level) => {
    const full = fullRatio(schedule, level)
    const group = groups.get(full) ?? { levels: [], full, low: Math.min(schedule.earlyRatio, full) }
    group.levels.push(name)
    groups.set(full, group)
  })
  return [...groups.values()]
}

/** @returns {Point[]} what spared blocks, if any, drop over a run, as a line; a step is two points of equal progress */
export function sparedLine(/** @type {Schedule} */ schedule, /** @type {LevelGroup} */ group) {
  if (sparedBlocks(schedule) === "none") return [[0, group.full], [1, group.full]]
  const level = LEVELS.indexOf(group.levels[0])
  const early = schedule.earlyPercent
  const pieces = schedule.ramp === "cosine" ? 32 : 1
  /** @type {Point[]} */
  const line = Array.from({ length: pieces }, (_, piece) => {
    const progress = (early * piece) / pieces
    return [progress, ratio(schedule, progress, level, true)]
  })
  if (schedule.ramp === "step") line.push([early, group.low])
  line.push([early, group.full], [1, group.full])
  return line
}
