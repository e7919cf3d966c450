/**
 * What the inputs of a node hold, as far as the graph can tell before it runs.
 *
 * @typedef {object} Held
 * @property {any} value
 * @property {string} label what the input is called on the node
 * @property {boolean} known false where another node works the value out in the run; `value` is then the node's own
 */

/** @returns {Held} the value of an input: its widget's, or that of the primitive node connected in its place */
export function heldBy(/** @type {any} */ node, /** @type {string} */ name) {
  const widget = node.widgets?.find((/** @type {any} */ one) => one.name === name)
  const label = widget?.label || name
  const slot = node.inputs?.findIndex((/** @type {any} */ input) => input.name === name) ?? -1
  if (slot < 0 || node.inputs[slot].link == null) return { value: widget?.value, label, known: true }
  const source = node.getInputNode(slot)
  const primitive = /^Primitive/.test(source?.type ?? "") ? source.widgets?.[0]?.value : undefined
  const known = primitive !== undefined
  return { value: known ? primitive : widget?.value, label, known }
}

/** @returns {any[]} the nodes of a type that an output leads to, through reroute nodes too */
export function connectedTo(/** @type {any} */ node, /** @type {string} */ type, seen = new Set()) {
  seen.add(node)
  const next = (node.getOutputNodes?.(0) ?? []).filter((/** @type {any} */ one) => one && !seen.has(one))
  return next.flatMap((/** @type {any} */ one) => {
    if (one.type === type) return [one]
    return one.type === "Reroute" ? connectedTo(one, type, seen) : []
  })
}
