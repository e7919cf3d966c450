/** The look of plot, badge and report, in the colours of the frontend's theme. */

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
.atedm-badge {
  box-sizing: border-box; padding: 5px 8px; border-radius: 6px;
  font: 12px/1.25 Inter, Arial, sans-serif; color: var(--input-text); unicode-bidi: plaintext;
  background: color-mix(in srgb, var(--tone) 22%, var(--component-node-widget-background, var(--comfy-input-bg)));
  border-inline-start: 3px solid var(--tone); --tone: #7f8a96;
}
.atedm-badge[data-state=saved] { --tone: #2fa36b; } .atedm-badge[data-state=nothing] { --tone: #e08600; }
.atedm-badge[data-state=sampling] { --tone: #2f9bf0; }
.atedm-report {
  box-sizing: border-box; height: 100%; padding: 10px; border-radius: 8px; overflow: auto;
  display: flex; flex-direction: column; gap: 10px; color: var(--input-text);
  background: var(--component-node-widget-background, var(--comfy-input-bg));
  font: 13px/1.35 Inter, Arial, sans-serif; unicode-bidi: plaintext;
}
.atedm-report * { unicode-bidi: plaintext; text-align: start; }
.atedm-report .figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 10px 16px; }
.atedm-report .figure { display: flex; flex-direction: column; }
.atedm-report .figure strong { font-size: 17px; } .atedm-report .figure span { opacity: 0.75; font-size: 12px; }
.atedm-report .main { grid-column: 1 / -1; } .atedm-report .main strong { font-size: 26px; }
.atedm-report .why { margin: 0; padding: 6px 10px; border-inline-start: 3px solid #e08600; }
.atedm-report .note { margin: 0; opacity: 0.75; }
.atedm-report img { display: block; width: 100%; border-radius: 6px; }
`

/** Add it to the page, once. */
export function addStyle() {
  if (document.getElementById(ID)) return
  const element = document.createElement("style")
  element.id = ID
  element.textContent = CSS
  document.head.append(element)
}
