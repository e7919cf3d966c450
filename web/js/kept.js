/**
 * What nodes were told of their last run, kept with the tab, so that a reload or another workflow in between loses none.
 * Nothing of it is saved in a workflow.
 */

const name = (/** @type {string} */ workflow, /** @type {string} */ node) => `at-edm/${workflow}/${node}`

export function keep(/** @type {string} */ workflow, /** @type {string} */ node, /** @type {any} */ told) {
  try {
    sessionStorage.setItem(name(workflow, node), JSON.stringify(told))
  } catch {
    // a full or forbidden storage costs no more than the reload's memory
  }
}

/** @returns {any} what was kept, `null` if nothing */
export function kept(/** @type {string} */ workflow, /** @type {string} */ node) {
  try {
    return JSON.parse(sessionStorage.getItem(name(workflow, node)) ?? "null")
  } catch {
    return null
  }
}

/** @returns {any} the node of a number as the queue has it, `12:3` for one in a subgraph; `null` if there is none */
export function nodeOf(/** @type {any} */ graph, /** @type {string} */ number) {
  let [place, node] = [graph, null]
  for (const part of number.split(":")) {
    node = place?.getNodeById(Number(part)) ?? null
    place = node?.subgraph
  }
  return node
}

/** Every node of a graph and of the subgraphs in it, with its number as the queue has it. */
export function eachNode(
  /** @type {any} */ graph,
  /** @type {(node: any, number: string) => void} */ visit,
  /** @type {string} */ before = "",
) {
  for (const node of graph?.nodes ?? []) {
    visit(node, `${before}${node.id}`)
    if (node.subgraph) eachNode(node.subgraph, visit, `${before}${node.id}:`)
  }
}
