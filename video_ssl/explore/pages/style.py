"""Style and script of the report.  Nothing is fetched: the page's own policy forbids it."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

STYLE = """
:root { --ink: #1c2430; --soft: #5c6878; --line: #e3e7ee; --paper: #fff; --ground: #f4f6f9; --accent: #2a6fdb;
  --good: #2f9e6e; --bad: #c2405b; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main, header > div { max-width: 1180px; margin: 0 auto; padding: 0 28px; }
header { background: linear-gradient(120deg, #14213d, #24467e); color: #fff; padding: 34px 0 64px; }
header h1 { margin: 0; font-size: 30px; letter-spacing: -.3px; }
header p { margin: 6px 0 0; color: #c9d6ee; }
header .state { display: inline-block; margin-left: 12px; padding: 2px 11px; border-radius: 99px; font-size: 13px;
  vertical-align: 5px; background: rgba(255,255,255,.16); }
header .state.done { background: #2f9e6e; } header .state.open { background: #c98a1b; }
nav { display: flex; gap: 18px; flex-wrap: wrap; margin-top: 16px; }
nav a { color: #e6edfa; text-decoration: none; font-size: 14px; border-bottom: 1px solid transparent; }
nav a:hover { border-color: #fff; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 12px; margin: -40px 0 10px; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 13px 16px;
  box-shadow: 0 1px 3px rgba(20,33,61,.06); }
.tile b { display: block; font-size: 21px; letter-spacing: -.3px; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
section { margin: 34px 0; }
h2 { font-size: 20px; margin: 0 0 4px; letter-spacing: -.2px; }
h3 { font-size: 15px; margin: 0 0 6px; }
p.lead { margin: 0 0 14px; color: var(--soft); max-width: 82ch; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px; }
.card + .card { margin-top: 14px; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fill, minmax(350px, 1fr)); gap: 14px; }
.grid2 .card + .card, .pair .card + .card { margin-top: 0; }
.pair { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 14px; }
.said { border-left: 4px solid var(--accent); font-size: 16px; white-space: pre-line; margin-bottom: 14px; }
.missing { color: var(--soft); font-style: italic; margin: 0; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: 13px; margin-top: 2px; }
.chart { width: 100%; height: auto; display: block; overflow: visible; }
.chart .grid { stroke: var(--line); stroke-width: 1; } .tick { fill: var(--soft); font-size: 11px; }
.chart .curve { stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .cursor { stroke: #9aa5b5; stroke-dasharray: 3 3; visibility: hidden; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 12.5px; color: var(--soft); }
.legend i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: 3px; }
#tip { position: fixed; display: none; pointer-events: none; background: #14213d; color: #fff; font-size: 12.5px;
  padding: 5px 9px; border-radius: 6px; z-index: 9; white-space: pre; font-variant-numeric: tabular-nums; }
.clip { display: grid; grid-template-columns: 84px minmax(0, 1fr); gap: 6px 12px; align-items: center; }
.clip span { color: var(--soft); font-size: 13px; text-align: right; }
.clip img { max-width: 100%; height: auto; display: block; border-radius: 4px; }
.row { display: grid; grid-template-columns: 128px 20px repeat(5, 1fr); gap: 12px; align-items: start; }
.row + .row { border-top: 1px solid var(--line); margin-top: 14px; padding-top: 14px; }
.row .to { color: #9aa5b5; font-size: 20px; align-self: center; text-align: center; }
.thumb { width: 112px; height: 112px; border-radius: 8px; background-size: 800% 100%; background-color: #e2e6ec;
  background-position: 42.857% 0; outline: 3px solid transparent; outline-offset: 1px; }
.thumb:hover { animation: play 1.2s steps(7, jump-none) infinite; }
@keyframes play { from { background-position: 0 0; } to { background-position: 100% 0; } }
.hit .thumb { outline-color: var(--good); } .miss .thumb { outline-color: #e7a6b3; }
.name { font-size: 13px; margin-top: 6px; line-height: 1.3; overflow-wrap: anywhere; }
.name small { color: var(--soft); display: block; }
.hit .name b { color: var(--good); } .miss .name b { color: var(--bad); font-weight: 500; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px; }
th, td { padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; } td.num, th.num { text-align: right; width: 1%; white-space: nowrap;
  padding-left: 26px; } tr.first td { font-weight: 600; }
td small { color: var(--soft); font-weight: 400; } tr.dim td { color: var(--soft); }
.scroll { overflow-x: auto; }
.bar { width: 100%; min-width: 70px; height: 10px; display: block; margin-top: 6px; }
.bar .track { fill: #edf0f5; } .bar .chance { fill: #1c2430; }
.confusion { width: 100%; height: auto; display: block; } .confusion .cell { font-size: 10.5px; text-anchor: middle; }
details { border-top: 1px solid var(--line); padding: 8px 0; } details:first-of-type { border-top: 0; }
summary { cursor: pointer; font-weight: 600; }
pre { background: #f7f9fc; border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; overflow-x: auto;
  font: 12.5px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; margin: 8px 0; }
code { font: 12.5px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
footer { color: var(--soft); font-size: 13px; padding: 10px 0 40px; }
@media (max-width: 820px) { .pair { grid-template-columns: 1fr; } .row { grid-template-columns: repeat(3, 1fr); }
  .row .to { display: none; } }
@media print { body { background: #fff; } nav { display: none; }
  header { color: #000; background: none; padding-bottom: 50px; } }
"""

SCRIPT = """
"use strict";
const errors = [];
addEventListener("error", event => {
  errors.push(event.message);
  document.documentElement.dataset.errors = errors.join(" | ");
});
const tip = document.getElementById("tip");
for (const chart of document.querySelectorAll("svg.chart")) {
  const series = JSON.parse(chart.dataset.points);
  const cursor = chart.querySelector(".cursor");
  chart.addEventListener("pointermove", event => {
    const box = chart.getBoundingClientRect();
    const x = (event.clientX - box.left) * chart.viewBox.baseVal.width / box.width;
    const near = series.filter(s => s.points.length).map(s => [s.name,
      s.points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a)]);
    const at = near[0][1];
    cursor.setAttribute("x1", at[0]); cursor.setAttribute("x2", at[0]); cursor.style.visibility = "visible";
    tip.textContent = "step " + at[2] + "\\n" + near.map(([name, p]) => name + "  " + p[3]).join("\\n");
    tip.style.display = "block";
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = (event.clientY + 14) + "px";
  });
  chart.addEventListener("pointerleave", () => { tip.style.display = "none"; cursor.style.visibility = "hidden"; });
}
document.documentElement.dataset.ready = "yes";
"""
