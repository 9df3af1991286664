"""The page's style: readable on paper and on a phone, light and dark."""

CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --paper: #ffffff; --rule: #d8dee4; --panel: #f6f8fa;
  --tensorflow: #c2500a; --pytorch: #1f5fc4; --good: #1a7f37; --bad: #c8202f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa5b1; --paper: #0d1117; --rule: #30363d; --panel: #161b22;
    --tensorflow: #ff9d4d; --pytorch: #74b0ff; --good: #4ac26b; --bad: #ff7b82; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .25rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
h3 { font-size: .8rem; text-transform: uppercase; letter-spacing: .05em; color: var(--soft); margin: 1.25rem 0 .4rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
a { color: inherit; }
code, pre { font: .86em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.soft { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .55rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th { font-weight: 600; color: var(--soft); }
th:first-child, td:first-child { text-align: left; }
th.both { text-align: center; border-bottom: 0; } th.under, th.under:first-child { text-align: right; padding-top: 0; }
thead tr:first-child th:has(~ .both), thead tr:first-child .both ~ th { border-bottom: 0; vertical-align: bottom; }
.pair th, .pair td { padding: .3rem .4rem; }
.pair td:first-child { white-space: normal; }
td.wrap { white-space: normal; min-width: 14rem; text-align: left; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr)); gap: .5rem 2rem; }
.pair > * { min-width: 0; }
.key { display: inline-flex; align-items: center; gap: .4rem; margin-right: 1rem; font-size: .85rem; }
.key svg { width: 2rem; height: .6rem; }
.plot { width: 100%; max-width: 32rem; height: auto; display: block; }
.plot text { font-size: 11px; fill: var(--soft); font-family: inherit; }
.grid { stroke: var(--rule); stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line.tensorflow { stroke: var(--tensorflow); } .line.pytorch { stroke: var(--pytorch); stroke-dasharray: 6 4; }
rect.tensorflow, circle.tensorflow { fill: var(--tensorflow); } rect.pytorch, circle.pytorch { fill: var(--pytorch); }
b.tensorflow { color: var(--tensorflow); } b.pytorch { color: var(--pytorch); }
.samples { display: flex; flex-wrap: wrap; gap: .75rem; }
figure { margin: 0; width: 84px; font-size: .78rem; line-height: 1.35; break-inside: avoid; }
figure img { width: 84px; height: 84px; display: block; image-rendering: pixelated; border: 1px solid var(--rule); }
.bars { width: 84px; height: 30px; display: block; margin: .3rem 0; border-bottom: 1px solid var(--rule); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--panel); border-radius: 6px; padding: .75rem;
  margin: .25rem 0 .75rem; }
.problem { border-left: 3px solid var(--bad); padding-left: .75rem; overflow-wrap: anywhere; }
@page { margin: 13mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 9pt; line-height: 1.3; }
  section { break-inside: avoid; }
  h2 { break-after: avoid; margin: .8rem 0 0; padding-top: .5rem; }
  h3 { margin: .5rem 0 .2rem; }
  p { max-width: none; margin: .1rem 0 .3rem; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .3rem; }
  .scroll { overflow: visible; }
  .pair { grid-template-columns: 9fr 11fr; gap: 0 1rem; }
  .pair th, .pair td { padding: .05rem .2rem; }
  .plot { max-width: 17rem; }
  .samples { gap: .5rem; }
  figure { width: 62px; font-size: 6pt; }
  figure img { width: 54px; height: 54px; }
  .bars { width: 54px; height: 19px; margin: .1rem 0; }
  * { print-color-adjust: exact; }
}
"""
