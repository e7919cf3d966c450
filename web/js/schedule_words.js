import { LEVELS, levelGroups, ratio, sparedBlocks } from "./dsap.js"

/**
 * The schedule in words, for the caption and for those who cannot see the plot.
 *
 * @typedef {import("./texts.js").Texts} Texts
 * @typedef {import("./schedule_inputs.js").Reading} Reading
 * @typedef {import("./dsap.js").Schedule} Schedule
 * @typedef {import("./dsap.js").LevelGroup} LevelGroup
 */

export function levelNames(/** @type {LevelGroup} */ group, /** @type {Texts} */ texts) {
  if (group.levels.length === LEVELS.length) return texts.say("all_levels")
  return group.levels.map((name) => texts.say(name)).join(", ")
}

/** @returns {{ solid: string, dashed: string | null }} keys of the names of the blocks that each kind of line shows */
export function blockNames(/** @type {Schedule} */ schedule) {
  return sparedBlocks(schedule) === "some" ? { solid: "spared", dashed: "others" } : { solid: "all", dashed: null }
}

/** One sentence for each kind of block and group of levels. */
export function describe(/** @type {Schedule} */ schedule, /** @type {Texts} */ texts) {
  const spared = sparedBlocks(schedule)
  const { solid, dashed } = blockNames(schedule)
  const early = texts.percent(schedule.earlyPercent)
  return levelGroups(schedule)
    .flatMap((group) => {
      const everywhere = group.levels.length === LEVELS.length
      const named = (/** @type {string} */ key, blocks = texts.say(key)) =>
        everywhere ? blocks : texts.say("at_level", { blocks, levels: levelNames(group, texts) })
      const full = texts.percent(group.full)
      const flat = (/** @type {string} */ key) => texts.say("throughout", { blocks: named(key), full })
      if (spared === "none" || group.low === group.full) return [flat("all")]
      const kind = schedule.ramp === "step" ? "step" : "rising"
      const first = texts.say(kind, { blocks: named(solid), low: texts.percent(group.low), full, early })
      return dashed ? [first, flat(dashed)] : [first]
    })
    .map((sentence) => sentence.charAt(0).toLocaleUpperCase(texts.locale) + sentence.slice(1))
    .join(" ")
}

/** What the plot rests on. */
export function caption(/** @type {Reading} */ reading, /** @type {Texts} */ texts) {
  const number = String(Math.round(reading.schedule.pruneRatio * 1e4) / 1e4)
  const basis = texts.say(`ratio_${reading.source}`, { ratio: number })
  return reading.unknown.length ? `${basis} ${texts.say("unknown", { names: reading.unknown.join(", ") })}` : basis
}

/** @returns {{ blocks: string, levels: string, share: string }[]} dropped at a progress, for reading line and table */
export function sharesAt(/** @type {Schedule} */ schedule, /** @type {number} */ progress, /** @type {Texts} */ texts) {
  const { solid, dashed } = blockNames(schedule)
  return levelGroups(schedule).flatMap((group) => {
    const level = LEVELS.indexOf(group.levels[0])
    const row = (/** @type {string} */ key, /** @type {boolean} */ endsStage) => ({
      blocks: texts.say(key),
      levels: levelNames(group, texts),
      share: texts.percent(ratio(schedule, progress, level, endsStage)),
    })
    return dashed ? [row(solid, true), row(dashed, false)] : [row(solid, true)]
  })
}

/** What the cursor reads, in one line; kinds of blocks that drop the same are not told apart. */
export function readout(/** @type {Schedule} */ schedule, /** @type {number} */ progress, /** @type {Texts} */ texts) {
  const several = levelGroups(schedule).length > 1
  /** @type {Map<string, string[]>} */
  const kinds = new Map()
  for (const one of sharesAt(schedule, progress, texts)) {
    kinds.set(one.blocks, [...(kinds.get(one.blocks) ?? []), several ? `${one.levels} ${one.share}` : one.share])
  }
  const told = [...kinds].map(([blocks, shares]) => [blocks, shares.join(" · ")])
  const same = told.every(([, shares]) => shares === told[0][1])
  const shown = same ? [[texts.say("all"), told[0][1]]] : told
  const at = texts.percent(Math.round(progress * 100) / 100)
  return `${at}: ${shown.map(([blocks, shares]) => `${blocks} ${shares}`).join("; ")}`
}
