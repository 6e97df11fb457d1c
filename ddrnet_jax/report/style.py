"""The page's CSS: light and dark, narrow and wide, screen and paper."""

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --muted: #59626e; --line: #d7dde4; --soft: #f3f5f8;
  --run0: #1f66d1; --run1: #c2560a; --wrong: #b4500b;
  --cell-right: #5b93e8; --cell-wrong: #e8751a; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e6e9ee; --muted: #9ba5b2; --line: #343b45;
  --soft: #1c2128; --run0: #6fabff; --run1: #ffa057; --wrong: #ff9645;
  --cell-right: #2c5fa8; --cell-wrong: #9c4a0c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 20px 16px 48px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 8px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 20px 0 6px; }
p { margin: 6px 0; max-width: 80ch; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 10px 0; }
a { color: var(--run0); }
.where, .note, .axis, dt, .card span, .panel span { color: var(--muted); }
.where { margin: 0; }
.notes { border-left: 4px solid var(--wrong); background: var(--soft); padding: 6px 12px; margin: 12px 0; }
.letter0, .letter1 { color: var(--paper); border-radius: 3px; padding: 0 6px; }
.letter0 { background: var(--run0); } .letter1 { background: var(--run1); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0; }
.card { background: var(--soft); border: 1px solid var(--line); border-radius: 8px; padding: 10px 18px;
  min-width: 150px; }
.card b { display: block; font-size: 1.8rem; line-height: 1.2; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 12px 0; }
dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 12px 3px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--muted); font-weight: 500; }
tbody th { font-weight: 400; }
.classes { width: 100%; }
.classes th, .classes td { vertical-align: middle; }
.classes td, .classes thead th { text-align: right; white-space: nowrap; }
.classes thead th:first-child { text-align: left; }
.classes td:nth-child(2) { width: 55%; min-width: 48px; }
.classes th[scope=row] { min-width: 100px; }
.compared { margin-top: 14px; }
.compared tbody th { color: var(--muted); }
.config { width: 100%; table-layout: fixed; min-width: 450px; } .config td { overflow-wrap: anywhere; }
.config thead th:first-child { width: 275px; } .config th { white-space: nowrap; }
.config:has(th:nth-child(3)) { min-width: 625px; } .config:has(th:nth-child(4)) { min-width: 800px; }
.bar { display: block; width: 100%; height: 11px; margin: 1px 0; }
.place { fill: var(--soft); }
.bar rect + rect { stroke: var(--muted); stroke-width: 1px; vector-effect: non-scaling-stroke; }
.fill0 { fill: var(--run0); } .fill1 { fill: var(--run1); }
.swatch { display: inline-block; width: 13px; height: 13px; margin-right: 7px; vertical-align: -2px; border-radius: 2px;
  border: 1px solid var(--muted); print-color-adjust: exact; }
.better { color: var(--run0); } .worse { color: var(--wrong); } .same { color: var(--muted); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 20px; }
figure { margin: 0; min-width: 0; }
.charts figcaption span { display: block; }
svg text { fill: var(--ink); font-size: 12px; }
.chart { display: block; width: 100%; max-width: 560px; height: auto; }
.chart text { fill: var(--muted); }
.grid { stroke: var(--line); }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.run0 { stroke: var(--run0); } .run1 { stroke: var(--run1); } .curve.run1 { stroke-dasharray: 6 3; }
.upright { stroke: var(--muted); stroke-dasharray: 4 4; }
.point { stroke: var(--paper); } .point.run0 { fill: var(--run0); } .point.run1 { fill: var(--run1); }
.halves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 8px 32px; }
.halves > div { min-width: 0; }
.heat.small { max-width: 100%; height: auto; }
.heat .frame { fill: var(--soft); stroke: var(--line); }
.heat .right { fill: var(--cell-right); } .heat .wrong { fill: var(--cell-wrong); }
.heat .count { font-size: 10.5px; }
.numbers td { text-align: right; }
.mistakes td:nth-child(n+3) { white-space: nowrap; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; padding: 0; margin: 8px 0; }
.legend li { overflow-wrap: anywhere; }
.sample { margin: 10px 0 22px; break-inside: avoid; }
.sample figcaption { margin-bottom: 4px; overflow-wrap: anywhere; }
.panels { display: grid; gap: 8px; grid-template-columns: repeat(2, minmax(0, 1fr)); }
.panel img { display: block; width: 100%; height: auto; border-radius: 3px; }
.panel span { font-size: .85rem; }
@media (min-width: 700px) { .of4 { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .of6 { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
code, pre { font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--soft); padding: 8px 12px; white-space: pre-wrap; overflow-wrap: anywhere; margin: 6px 0; }
summary { cursor: pointer; margin: 14px 0 6px; }
@media (max-width: 480px) { body { padding: 14px 12px 40px; font-size: 14px; } th, td { padding-right: 8px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 6px; }
  .config code { font-size: 11px; } .config thead th:first-child { width: 230px; }
  .config { min-width: 380px; } .config:has(th:nth-child(3)) { min-width: 530px; }
  .config:has(th:nth-child(4)) { min-width: 680px; }
  .card { flex: 1; padding: 8px 12px; min-width: 130px; } .card b { font-size: 1.5rem; } }
@media print { body { max-width: none; padding: 0; } nav { display: none; } .scroll { overflow: visible; }
  svg, .card, pre { print-color-adjust: exact; }
  h2, h3, .note { break-after: avoid; } figure, svg, tr { break-inside: avoid; } .halves { display: block; } }
"""
