"""How a report looks: on a screen of any width, light or dark, and on paper.

Lines differ in dashes as well as in colour. Contrast of text is at least 4.5 to 1, of lines 3 to 1.
"""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #16191d; --soft: #4d555e; --rule: #c9ced4;
  --grid: #e4e7ea; --reference: #6b7280; --heat: #0072b2; --low: #000; --middle: #000; --high: #fff;
  --c0: #0072b2; --c1: #c24e00; --c2: #00795a; --c3: #a8487c; --c4: #8a6100; --c5: #333; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #14181d; --ink: #e8eaed; --soft: #b0b7bf; --rule: #454d57; --grid: #2b323a;
    --reference: #9aa3ad; --heat: #56b4e9; --low: #fff; --middle: #000; --high: #000;
    --c0: #56b4e9; --c1: #ff9a57; --c2: #35c79b; --c3: #e79ac2; --c4: #e6b84d; --c5: #ddd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 16px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 40px 0 4px; padding-top: 12px; border-top: 1px solid var(--rule); }
p { max-width: 75ch; margin: 6px 0 12px; }
nav a { display: inline-block; margin-right: 14px; padding: 4px 0; }
a { color: var(--c0); }
summary { cursor: pointer; padding: 6px 0; }
.soft, footer { color: var(--soft); }
.panels { display: grid; gap: 20px 28px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
figure { margin: 0; max-width: 480px; break-inside: avoid; }
figcaption { font-weight: 600; font-size: 0.92rem; line-height: 1.3; }
figcaption .soft { font-weight: 400; }
svg { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; margin: 8px 0 16px; }
table { border-collapse: collapse; font-size: 0.87rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 9px; text-align: right; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--grid); }
thead th { border-bottom: 1px solid var(--rule); font-weight: 600; vertical-align: bottom;
  white-space: normal; min-width: 4em; }
th.words, td.words { text-align: left; }
tbody th { font-weight: 400; position: sticky; left: 0; background: var(--paper);
  white-space: normal; overflow-wrap: anywhere; min-width: 12em; max-width: 28em; }
.long { white-space: normal; width: 34em; }
td summary { padding: 0; }
.panels th, .panels td { padding: 4px 6px; }
.panels tbody th, .panels td.words { min-width: 7em; white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 600px) { tbody th { min-width: 8.5em; max-width: 45vw; } }
code { font-size: 0.93em; }
.key { display: inline-block; margin-right: 12px; font-size: 0.8rem; font-weight: 400; }
.key svg { display: inline-block; width: 34px; height: 10px; margin-right: 5px; }
text { font-size: 10.5px; fill: var(--ink); font-variant-numeric: tabular-nums; }
.tick { fill: var(--soft); }
.over { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
.grid, .axis, .bound, .reference, .whisker { fill: none; stroke-width: 1; }
.grid { stroke: var(--grid); } .axis { stroke: var(--reference); }
.bound { stroke: var(--rule); stroke-dasharray: 1 3; stroke-width: 1.5; }
.reference { stroke: var(--reference); stroke-dasharray: 5 4; stroke-width: 1.5; }
.whisker { stroke: var(--c0); stroke-width: 2.5; }
.spot { fill: var(--c0); stroke: var(--paper); stroke-width: 1; }
.cloud { stroke: var(--c0); stroke-width: 3.5; stroke-linecap: round; opacity: 0.35; fill: none; }
.bar { fill: var(--reference); opacity: 0.45; }
.frame { fill: none; stroke: var(--rule); }
.cell { fill: var(--heat); print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.value.low { fill: var(--low); } .value.middle { fill: var(--middle); }
.value.high { fill: var(--high); }
.line0, .line1, .line2, .line3, .line4, .line5 { fill: none; stroke-width: 1.8;
  stroke-linecap: round; stroke-linejoin: round; }
.line0 { stroke: var(--c0); } .line1 { stroke: var(--c1); stroke-dasharray: 6 4; }
.line2 { stroke: var(--c2); stroke-dasharray: 0.1 4; }
.line3 { stroke: var(--c3); stroke-dasharray: 8 4 0.1 4; }
.line4 { stroke: var(--c4); stroke-dasharray: 12 4; }
.line5 { stroke: var(--c5); stroke-dasharray: 3 4; }
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  nav { display: none; }
  h2 { margin-top: 18px; }
  h2, section > p { break-after: avoid; break-inside: avoid; }
  .panels { grid-template-columns: repeat(3, 1fr); }
  figure { max-width: 340px; }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: 2px 5px; }
  tr { break-inside: avoid; }
  thead { display: table-header-group; }
  details::details-content { content-visibility: visible; display: block; block-size: auto; }
}
"""
