const $ = id => document.getElementById(id), SVG = "http://www.w3.org/2000/svg";
const data = JSON.parse($("data").textContent), videos = data.videos, many = videos.length;
const state = { a: data.start[0], b: data.start[1], t: 0 };
const make = (tag, attributes, parent) => {
  const node = document.createElementNS(SVG, tag);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (parent) parent.append(node);
  return node;
};
const phased = Object.keys(data.phases).length > 0;
const pair = () => data.pairs[state.a * many + state.b];
const tint = label => label >= 0 ? data.phases[label].color : data.noPhase;
const moment = (video, frame) => video.times ? video.times[frame].toFixed(2) + " s" : "frame " + frame;
const percent = share => Math.round(100 * share) + " %";

function fillSelect(select) {
  const groups = new Map();
  videos.forEach((video, number) => {
    if (!groups.has(video.className)) groups.set(video.className, []);
    groups.get(video.className).push(new Option(video.id, number));
  });
  for (const [name, options] of groups) {
    if (!name) { select.append(...options); continue; }
    const group = document.createElement("optgroup");
    group.label = name; group.append(...options); select.append(group);
  }
}

/* What depends on the pair: the matrix with its path, the two bars, the map. */
function drawMatrix() {
  const { png, i, j } = pair(), n = videos[state.a].labels.length, m = videos[state.b].labels.length, box = $("matrix");
  box.replaceChildren();
  make("image", { href: png, x: 0, y: 0, width: 400, height: 400, preserveAspectRatio: "none",
    style: "image-rendering:pixelated" }, box);
  const place = (frame, count) => ((frame + .5) / count * 400).toFixed(1);
  const points = i.map((row, s) => place(j[s], m) + "," + place(row, n)).join(" ");
  for (const [stroke, width, opacity] of [["#fff", 5, .55], ["#e62828", 2.4, 1]])
    make("polyline", { points, fill: "none", stroke, "stroke-width": width, opacity, "stroke-linejoin": "round" }, box);
  for (const id of ["cross-h", "cross-v"])
    make("line", { id, stroke: "#fff", "stroke-width": 1, opacity: .8, "stroke-dasharray": "4 3" }, box);
  make("circle", { id: "cross", r: 6.5, fill: "#fff", stroke: "#e62828", "stroke-width": 3 }, box);
}

const LEFT = 0, WIDE = 1000, BAR = 20, TOP = 4, BOTTOM = 94;
const along = (frame, count) => LEFT + (frame + .5) / count * WIDE;
function drawLinks() {
  const box = $("links"), { i, j } = pair();
  box.replaceChildren();
  [[state.a, TOP], [state.b, BOTTOM]].forEach(([number, y]) => {
    const labels = videos[number].labels, count = labels.length;
    for (let from = 0, to; from < count; from = to) {
      for (to = from + 1; to < count && labels[to] === labels[from];) to++;
      make("rect", { x: LEFT + from / count * WIDE, y, width: (to - from) / count * WIDE, height: BAR,
        fill: tint(labels[from]), opacity: labels[from] < 0 ? .55 : 1 }, box);
    }
  });
  const n = videos[state.a].labels.length, m = videos[state.b].labels.length;
  const step = Math.max(1, Math.round(i.length / 110));
  for (let s = 0; s < i.length; s += step) {
    const one = videos[state.a].labels[i[s]], other = videos[state.b].labels[j[s]];
    make("line", { x1: along(i[s], n), y1: TOP + BAR, x2: along(j[s], m), y2: BOTTOM, "stroke-width": 1.1,
      "vector-effect": "non-scaling-stroke", stroke: one === other ? tint(one) : data.noPhase,
      opacity: one === other && one >= 0 ? .75 : .4 }, box);
  }
  make("polyline", { id: "link", fill: "none", stroke: "var(--ink)", "stroke-width": 2.6,
    "vector-effect": "non-scaling-stroke" }, box);
}

function showAgreement() {
  const [aligned, stretched] = pair().agree, box = $("agree");
  box.replaceChildren();
  box.hidden = !phased;
  if (aligned === null) {
    box.textContent = "The two videos have no phase in common, so there is nothing to agree on.";
    return;
  }
  const number = document.createElement("b");
  number.textContent = percent(aligned);
  box.append("Frames that belong together are in the same phase: ", number, " of those with a phase in both videos",
    stretched === null ? "." : "; " + percent(stretched) + " if B were only stretched to the length of A.");
}

/* The map.  "own": components of the frames of A's class, "all": of all frames. */
const scaleOf = { x: 0, y: 0, size: 1 };
const shown = () => $("scope").value === "all" ? videos.map((_, v) => v)
  : videos.map((_, v) => v).filter(v => videos[v].kind === videos[state.a].kind || videos[state.a].kind < 0);
const spots = v => videos[v][$("scope").value === "all" ? "all" : "own"];
const spot = (v, f) => [320 + (spots(v)[2 * f] - scaleOf.x) * scaleOf.size,
  215 - (spots(v)[2 * f + 1] - scaleOf.y) * scaleOf.size];
function hue(v, frame) {
  const kind = $("tint").value, video = videos[v];
  if (kind === "phase") return tint(video.labels[frame]);
  if (kind === "class") return data.classColors[video.kind] || data.noPhase;
  const share = frame / Math.max(1, video.labels.length - 1);
  return `hsl(${230 - 190 * share} 70% ${42 + 10 * share}%)`;
}
function drawMap() {
  const box = $("map"), here = shown();
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const v of here) for (let k = 0; k < spots(v).length; k += 2) {
    x0 = Math.min(x0, spots(v)[k]); x1 = Math.max(x1, spots(v)[k]);
    y0 = Math.min(y0, spots(v)[k + 1]); y1 = Math.max(y1, spots(v)[k + 1]);
  }
  scaleOf.x = (x0 + x1) / 2; scaleOf.y = (y0 + y1) / 2;
  scaleOf.size = Math.min(600 / Math.max(x1 - x0, 1e-9), 390 / Math.max(y1 - y0, 1e-9));
  box.replaceChildren();
  const dots = make("g", {}, box);
  const order = here.filter(v => v !== state.a && v !== state.b);
  for (const v of [...order, ...here.filter(v => !order.includes(v))]) {
    const chosen = v === state.a || v === state.b;
    if (chosen) {
      const line = videos[v].labels.map((_, f) => spot(v, f).map(p => p.toFixed(1)).join(",")).join(" ");
      make("polyline", { points: line, fill: "none", stroke: "var(--ink)", "stroke-width": 1.1, opacity: .45,
        "stroke-dasharray": v === state.a ? "none" : "4 3", "stroke-linejoin": "round" }, dots);
    }
    videos[v].labels.forEach((label, f) => {
      const [cx, cy] = spot(v, f), plain = $("tint").value === "phase" && label < 0;
      make("circle", { class: "dot", cx: cx.toFixed(1), cy: cy.toFixed(1), r: chosen ? 4 : 2.8, fill: hue(v, f),
        opacity: (chosen ? .95 : .42) * (plain ? .6 : 1), "data-v": v, "data-f": f }, dots);
    });
  }
  for (const which of ["b", "a"]) {
    const group = make("g", { id: "mark-" + which, "pointer-events": "none" }, box);
    make("circle", { r: 10, fill: which === "a" ? "var(--ink)" : "var(--paper)", stroke: "var(--ink)", "stroke-width": 2 }, group);
    make("text", { y: 4, "text-anchor": "middle", "font-size": 12, "font-weight": 700,
      fill: which === "a" ? "var(--paper)" : "var(--ink)" }, group).textContent = which.toUpperCase();
  }
  const whole = $("scope").value === "all", part = whole ? data.shares : data.classShares[videos[state.a].kind];
  const which = whole ? "all frames" : "the frames of this class";
  $("axes").textContent = `The two directions in which ${which} differ most: `
    + `to the right ${percent(part[0])} of their variance, upwards ${percent(part[1])}. Lines follow A (solid) and `
    + "B (dashed) through time; a click on a point moves A there.";
  drawLegend(here);
}
function drawLegend(here) {
  const box = $("legend"), kind = $("tint").value;
  box.replaceChildren();
  const entry = (color, text) => {
    const item = document.createElement("span"), dot = document.createElement("i");
    dot.className = "dot"; dot.style.background = color;
    item.append(dot, text); box.append(item);
  };
  if (kind === "time") { entry("hsl(230 70% 42%)", "first frame"); entry("hsl(40 70% 52%)", "last frame"); return; }
  const classes = new Map();
  for (const v of here) {
    if (!classes.has(videos[v].className)) classes.set(videos[v].className, new Set());
    videos[v].labels.forEach(label => classes.get(videos[v].className).add(label));
    if (kind === "class") classes.get(videos[v].className).color = hue(v, 0);
  }
  let off = false;
  for (const [name, labels] of classes) {
    if (kind === "class") { entry(labels.color, name || "no class"); continue; }
    off = off || labels.has(-1);
    const known = [...labels].filter(label => label >= 0).sort((x, y) => x - y);
    if (classes.size > 1 && name && known.length) {
      const title = document.createElement("b"); title.textContent = name; box.append(title);
    }
    known.forEach(label => entry(tint(label), data.phases[label].name));
  }
  if (off) entry(data.noPhase, "no phase");
}

/* What depends on the step. */
function fillShot(box, video, frame) {
  const img = box.querySelector("img"), none = box.querySelector(".none");
  img.hidden = !video.frames;
  if (video.frames) img.src = video.frames[frame];
  none.textContent = video.frames ? "" : "no picture of " + video.id;
}
function chip(node, label) {
  node.hidden = !phased;
  node.textContent = label >= 0 ? data.phases[label].name : "no phase";
  node.style.background = label >= 0 ? tint(label) : "";
  node.className = label >= 0 ? "chip" : "chip off";
}
let lastNear = "";
function drawNear(i) {
  const key = state.a + " " + i, box = $("near");
  if (key === lastNear) return;
  lastNear = key;
  box.replaceChildren();
  const own = videos[state.a].labels[i];
  const found = videos.map((_, v) => v).filter(v => v !== state.a)
    .map(v => ({ v, f: data.pairs[state.a * many + v].best[i], c: data.pairs[state.a * many + v].cosine[i] }))
    .sort((x, y) => y.c - x.c).slice(0, 6);
  for (const { v, f, c } of found) {
    const video = videos[v], label = video.labels[f], item = document.createElement("button");
    item.className = own < 0 || label < 0 ? "" : own === label ? "hit" : "miss";
    item.innerHTML = '<div class="shot"><img alt=""><div class="none"></div></div>'
      + '<div class="name"><b></b><small></small></div>';
    fillShot(item.querySelector(".shot"), video, f);
    item.querySelector("b").hidden = !phased;
    item.querySelector("b").textContent = label >= 0 ? data.phases[label].name : "no phase";
    item.querySelector("small").textContent = [video.className, video.id, moment(video, f) + " · " + c.toFixed(3)]
      .filter(Boolean).join("\n");
    item.querySelector("small").style.whiteSpace = "pre-line";
    item.onclick = () => choose(state.a, v, i);
    box.append(item);
  }
  if (!found.length) box.innerHTML = '<p class="missing">There is no other video.</p>';
}
function show() {
  const { i, j, distance } = pair(), s = state.t = Math.max(0, Math.min(state.t, i.length - 1));
  const here = [[state.a, i[s], "a"], [state.b, j[s], "b"]];
  for (const [v, f, which] of here) {
    const shot = $("shot-" + which), cap = shot.nextElementSibling;
    fillShot(shot, videos[v], f);
    cap.querySelector("b").textContent = videos[v].id;
    chip(cap.querySelector(".chip"), videos[v].labels[f]);
    cap.querySelector("time").textContent = moment(videos[v], f);
    if (shown().includes(v)) $("mark-" + which).setAttribute("transform", `translate(${spot(v, f)})`);
    $("mark-" + which).style.display = shown().includes(v) ? "" : "none";
  }
  const n = videos[state.a].labels.length, m = videos[state.b].labels.length;
  const x = (j[s] + .5) / m * 400, y = (i[s] + .5) / n * 400;
  const set = (id, values) => { for (const key in values) $(id).setAttribute(key, values[key]); };
  set("cross", { cx: x, cy: y });
  set("cross-h", { x1: 0, x2: 400, y1: y, y2: y }); set("cross-v", { x1: x, x2: x, y1: 0, y2: 400 });
  const xa = along(i[s], n), xb = along(j[s], m);
  set("link", { points: `${xa},${TOP - 3} ${xa},${TOP + BAR} ${xb},${BOTTOM} ${xb},${BOTTOM + BAR + 3}` });
  $("near-by").textContent = "distance " + distance[s].toFixed(2);
  $("where").textContent = `step ${s + 1} of ${i.length}`;
  $("scrub").value = s;
  drawNear(i[s]);
  document.documentElement.dataset.step = s;
  document.documentElement.dataset.frames = i[s] + "," + j[s];
  const id = number => encodeURIComponent(videos[number].id);
  const place = `#a=${id(state.a)}&b=${id(state.b)}&t=${s}`;
  try { history.replaceState(null, "", place); } catch (ignored) { /* not allowed here */ }
}
let chosenScope = "own";
function choose(a, b, frame) {
  state.a = a; state.b = b; lastNear = "";
  state.t = frame === undefined ? 0 : Math.max(0, pair().i.indexOf(frame));
  const apart = videos[a].kind >= 0 && videos[a].kind !== videos[b].kind;  // one map has to hold both
  $("scope").disabled = apart; $("scope").value = apart ? "all" : chosenScope;
  $("pick-a").value = a; $("pick-b").value = b; $("scrub").max = pair().i.length - 1;
  drawMatrix(); drawLinks(); drawMap(); showAgreement(); show();
}

/* Hands. */
$("scrub").oninput = event => { state.t = +event.target.value; show(); };
$("pick-a").onchange = event => choose(+event.target.value, state.b);
$("pick-b").onchange = event => choose(state.a, +event.target.value, pair().i[state.t]);
$("swap").onclick = () => choose(state.b, state.a, pair().j[state.t]);
$("tint").onchange = $("scope").onchange = () => { chosenScope = $("scope").value; drawMap(); show(); };
$("map").onclick = event => {
  const { v, f } = event.target.dataset;
  if (v !== undefined) choose(+v, +v === state.a ? state.b : state.a, +f);
};
function dragged(box, move) {
  const go = event => {
    const frame = box.getBoundingClientRect();
    move((event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height);
  };
  box.addEventListener("pointerdown", event => { box.setPointerCapture(event.pointerId); go(event); });
  box.addEventListener("pointermove", event => { if (event.buttons) go(event); });
}
function nearestStep(cost) {
  let best = 0, least = Infinity;
  pair().i.forEach((_, s) => { const value = cost(s); if (value < least) { least = value; best = s; } });
  state.t = best; show();
}
dragged($("matrix"), (x, y) => {
  const { i, j } = pair(), n = videos[state.a].labels.length, m = videos[state.b].labels.length;
  nearestStep(s => ((j[s] + .5) / m - x) ** 2 + ((i[s] + .5) / n - y) ** 2);
});
dragged($("links"), (x, y) => {
  const { i, j } = pair(), [list, v] = y < .5 ? [i, state.a] : [j, state.b];
  nearestStep(s => Math.abs(along(list[s], videos[v].labels.length) - 1000 * x));
});
let timer = 0;
$("play").onclick = () => {
  if (timer) { clearInterval(timer); timer = 0; $("play").textContent = "Play"; return; }
  if (state.t >= pair().i.length - 1) state.t = -1;
  $("play").textContent = "Pause";
  timer = setInterval(() => {
    state.t += 1; show();
    if (state.t >= pair().i.length - 1) $("play").click();
  }, 90);
};
addEventListener("keydown", event => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by || /SELECT|INPUT/.test(event.target.tagName)) return;
  state.t += by; show(); event.preventDefault();
});

fillSelect($("pick-a")); fillSelect($("pick-b"));
if (!videos.some(video => video.kind >= 0)) {
  $("tint").querySelector("[value=class]").remove(); chosenScope = "all"; $("scope").parentElement.hidden = true;
}
if (!phased) { $("tint").querySelector("[value=phase]").remove(); $("tint").value = "time"; $("marks").hidden = true; }
function readHash() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const place = (name, otherwise) => {
    const found = videos.findIndex(video => video.id === asked.get(name));
    return found < 0 ? otherwise : found;
  };
  const step = parseInt(asked.get("t"), 10) || 0;
  choose(place("a", state.a), place("b", state.b));
  state.t = step; show();
}
addEventListener("hashchange", readHash);
readHash();
