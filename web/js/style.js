/** The plot's look, in the colours of the frontend's theme. */

const ID = "atedm-style"

// mixing the series' colours with the text's makes them lighter in dark themes and darker in light ones
const CSS = `
.atedm-plot {
  --c0: color-mix(in srgb, #2f9bf0 74%, var(--input-text)); --c1: color-mix(in srgb, #e08600 74%, var(--input-text));
  --c2: color-mix(in srgb, #9370f5 80%, var(--input-text)); --c3: color-mix(in srgb, #e34a8b 80%, var(--input-text));
  position: relative; box-sizing: border-box; display: flex; flex-direction: column; gap: 4px;
  padding: 8px; border-radius: 8px; color: var(--input-text);
  background: var(--component-node-widget-background, var(--comfy-input-bg));
  font: 11px/1.35 Inter, Arial, sans-serif; overflow: hidden; user-select: none;
}
.atedm-plot:focus-visible { outline: 2px solid var(--c0); outline-offset: -2px; }
.atedm-plot .heading { font-weight: 600; }
.atedm-plot .legend { display: flex; flex-wrap: wrap; gap: 1px 12px; color: var(--input-text); }
.atedm-plot .item { display: inline-flex; align-items: center; gap: 5px; white-space: nowrap; }
.atedm-plot .line { width: 16px; border-top: 2.5px solid currentColor; opacity: 0.85; }
.atedm-plot .dashed { border-top-style: dashed; border-top-width: 2px; }
.atedm-plot .dot { width: 9px; height: 9px; border-radius: 50%; background: var(--c); }
.atedm-plot svg { flex: 1 1 0; min-height: 96px; width: 100%; direction: ltr; cursor: crosshair; overflow: visible; }
.atedm-plot .full-level { --c: var(--c0); } .atedm-plot .half-level { --c: var(--c1); }
.atedm-plot .quarter-level { --c: var(--c2); } .atedm-plot .eighth-level { --c: var(--c3); }
.atedm-plot .early { fill: currentColor; opacity: 0.07; }
.atedm-plot .grid { stroke: currentColor; opacity: 0.18; }
.atedm-plot .edge { stroke: currentColor; opacity: 0.35; stroke-dasharray: 1 3; stroke-linecap: round; }
.atedm-plot .area { fill: var(--c); opacity: 0.13; }
.atedm-plot .spared { fill: none; stroke: var(--c); stroke-width: 2.5; stroke-linejoin: round; }
.atedm-plot .others { fill: none; stroke: var(--c); stroke-width: 1.75; stroke-dasharray: 5 4; }
.atedm-plot .cursor { stroke: currentColor; opacity: 0.8; }
.atedm-plot text { fill: currentColor; font-size: 10px; }
.atedm-plot text.value { font-size: 11px; font-weight: 600; }
.atedm-plot .note { margin: 0; min-height: 2.7em; font-size: 10px; unicode-bidi: plaintext; }
.atedm-plot .unseen {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap;
}
`

/** Add it to the page, once. */
export function addStyle() {
  if (document.getElementById(ID)) return
  const element = document.createElement("style")
  element.id = ID
  element.textContent = CSS
  document.head.append(element)
}
