"""The style of the models' report, and what load has more: stripes, margins, four kinds of line."""

from __future__ import annotations

from models.report.style import CSS as BASE

CSS = (
    BASE
    + """
body { max-width: 76rem; }
.answer { font-size: 1.12rem; max-width: 60rem; margin: .4rem 0; }
.line.direct { stroke-width: 1.2; opacity: .65; }
circle.direct { opacity: .5; }
.band { opacity: .10; } .band.tensorflow { fill: var(--tensorflow); } .band.pytorch { fill: var(--pytorch); }
.band.direct { opacity: .04; }
.margin { fill: var(--soft); opacity: .16; }
.one { stroke: var(--soft); stroke-width: 1; }
.interval { stroke: var(--ink); stroke-width: 2; }
.middle { fill: var(--ink); }
.part0 { fill: #6f7d8c; } .part1 { fill: #c9a227; } .part2 { fill: #2a8f85; } .part3 { fill: #8b5fbf; }
.part4 { fill: #b8c0c8; }
.three { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .5rem 1.5rem; }
.series { overflow-x: auto; } .series .plot { max-width: none; min-width: 44rem; }
.series circle { r: 1.6px; }
table.left td, table.left th, table.rules td { text-align: left; }
table.rules td, table.left td { white-space: normal; }
@media (min-width: 62rem) { .pair.wide { grid-template-columns: 8fr 5fr; } }
.pair.wide td:last-child { white-space: normal; min-width: 9rem; }
.pair td.wrap { min-width: 0; }
.pair th, .pair td { padding: .25rem .35rem; }
@media print {
  section { break-inside: auto; }
  section + section { break-before: page; }
  .plot, table, .pair > * { break-inside: avoid; }
  h3, thead { break-after: avoid; }
  .series { overflow: visible; } .series .plot { min-width: 0; }
  .three { grid-template-columns: 1fr 1fr 1fr; }
  .answer { font-size: 10.5pt; }
  .pair.wide { grid-template-columns: 8fr 5fr; }
}
"""
)
