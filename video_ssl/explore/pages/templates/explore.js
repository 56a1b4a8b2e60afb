const $ = id => document.getElementById(id), SVG = "http://www.w3.org/2000/svg";
const data = JSON.parse($("data").textContent), videos = data.videos, many = videos.length;
const state = { a: data.start[0], b: data.start[1], t: 0, zoom: 1, low: [0, 0] };
const make = (tag, attributes, parent) => {
  const node = document.createElementNS(SVG, tag);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (parent) parent.append(node);
  return node;
};
const phased = Object.keys(data.phases).length > 0;
const pair = () => data.pairs[state.a * many + state.b];
const tint = label => label >= 0 ? data.phases[label].color : data.noPhase;
const clock = (seconds, digits) => {
  if (seconds < 60) return seconds.toFixed(digits) + " s";
  const whole = Math.floor(seconds / 60), rest = (seconds % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return whole < 60 ? whole + ":" + rest : Math.floor(whole / 60) + ":" + String(whole % 60).padStart(2, "0") + ":" + rest;
};
const moment = (video, frame) => video.times ? clock(video.times[frame], 2) : "frame " + frame;
const CHAPTERS = ["#5b8def", "#8fb2f5", "#3f6cc0", "#b5cdfa"];
const chapterOf = (video, frame) => video.chapters.filter(first => first <= frame).length - 1;
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

/* What is seen of A (0) and of B (1): all of it, or a part around the current step, in frames. */
const sizes = () => [videos[state.a].labels.length, videos[state.b].labels.length];
const seen = which => {
  const count = sizes()[which], width = Math.max(Math.min(count, 4), count / state.zoom);
  const low = state.zoom === 1 ? 0 : Math.min(Math.max(state.low[which], 0), count - width);
  return { low, width };
};
const share = (which, frame) => (frame + .5 - seen(which).low) / seen(which).width;
/* A step outside of the part that is seen moves the part. */
function follow(frames, always) {
  let moved = false;
  frames.forEach((frame, which) => {
    const { low, width } = seen(which);
    if (always || frame < low || frame > low + width - 1) {
      state.low[which] = frame + .5 - width / 2; moved = moved || state.zoom > 1;
    }
  });
  return moved;
}
function zoomTo(zoom) {
  const most = Math.max(1, Math.min(...sizes()) / 6);
  state.zoom = Math.max(1, Math.min(zoom, most));
  const { i, j } = pair();
  follow([i[state.t], j[state.t]], true);
  drawMatrix(); drawLinks(); showAxes(); show();
}
/* Times along an axis, at round numbers of seconds. */
function ticks(box, which, side) {
  const video = videos[which ? state.b : state.a], { low, width } = seen(which);
  box.replaceChildren();
  const at = frame => {
    const last = video.labels.length - 1, f = Math.min(Math.max(frame, 0), last), floor = Math.floor(f);
    if (!video.times) return f;
    return video.times[floor] + (f - floor) * (video.times[Math.min(floor + 1, last)] - video.times[floor]);
  };
  const from = at(low - .5), to = at(low + width - .5), room = side === "x" ? box.clientWidth / 70 : box.clientHeight / 40;
  const steps = [.1, .2, .5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];
  const wanted = (to - from) / Math.max(1, room), step = steps.find(s => s >= wanted) || steps.at(-1);
  for (let value = Math.ceil(from / step) * step, guard = 0; value <= to + 1e-9 && guard < 60; value += step, guard++) {
    const place = 100 * (value - from) / Math.max(to - from, 1e-9), label = document.createElement("span");
    label.textContent = video.times ? clock(value, step < 1 ? 1 : 0) : value;
    label.className = place < 6 ? "first" : place > 94 ? "last" : "";
    label.style[side === "x" ? "left" : "top"] = place + "%";
    box.append(label);
  }
}
function showAxes() {
  const names = [["name-y", "A", state.a], ["name-x", "B", state.b]];
  for (const [id, which, v] of names) {
    const badge = document.createElement("b");
    badge.textContent = which + " "; $(id).replaceChildren(badge, videos[v].id);
  }
  ticks($("ticks-y"), 0, "y"); ticks($("ticks-x"), 1, "x"); ticks($("times-a"), 0, "x"); ticks($("times-b"), 1, "x");
  const about = [state.a, state.b].map((v, which) => {
    const { times, labels } = videos[v];
    const every = times && times.length > 1 ? ", one every " + clock((times.at(-1) - times[0]) / (times.length - 1), 2) : "";
    return "AB"[which] + ": " + labels.length + " frames" + every;
  });
  $("density").textContent = about.join("; ") + (state.zoom > 1 ? `; ${+state.zoom.toFixed(1)} times closer` : "");
  $("wider").disabled = $("whole").disabled = state.zoom === 1;
  $("closer").disabled = state.zoom >= Math.min(...sizes()) / 6;
}
/* The chapters of A, to leaf through. */
function drawChapters() {
  const video = videos[state.a], box = $("leaves");
  box.replaceChildren();
  $("chapters").hidden = video.chapters.length < 2;
  $("chapters-of").textContent = video.id;
  video.chapters.forEach((first, number) => {
    const end = video.chapters[number + 1] ?? video.labels.length, leaf = document.createElement("button");
    leaf.innerHTML = '<div class="shot"><img alt=""><div class="none"></div></div><i></i>';
    fillShot(leaf.querySelector(".shot"), video, Math.floor((first + end - 1) / 2));
    leaf.querySelector("i").style.background = CHAPTERS[number % CHAPTERS.length];
    leaf.append(moment(video, first));
    leaf.setAttribute("aria-label", `chapter ${number + 1}, from ${moment(video, first)}`);
    leaf.onclick = () => { state.t = Math.max(0, pair().i.indexOf(first)); show(); };
    box.append(leaf);
  });
}

/* What depends on the pair: the matrix with its path, the two bars, the map. */
function drawMatrix() {
  const { png, i, j } = pair(), [n, m] = sizes(), [down, right] = [seen(0), seen(1)], box = $("matrix");
  box.replaceChildren();
  make("image", { href: png, x: -right.low / right.width * 400, y: -down.low / down.width * 400,
    width: m / right.width * 400, height: n / down.width * 400, preserveAspectRatio: "none",
    style: "image-rendering:pixelated" }, box);
  const points = i.map((row, s) => (share(1, j[s]) * 400).toFixed(1) + "," + (share(0, row) * 400).toFixed(1)).join(" ");
  for (const [stroke, width, opacity] of [["#fff", 5, .55], ["#e62828", 2.4, 1]])
    make("polyline", { points, fill: "none", stroke, "stroke-width": width, opacity, "stroke-linejoin": "round" }, box);
  for (const id of ["cross-h", "cross-v"])
    make("line", { id, stroke: "#fff", "stroke-width": 1, opacity: .8, "stroke-dasharray": "4 3" }, box);
  make("circle", { id: "cross", r: 6.5, fill: "#fff", stroke: "#e62828", "stroke-width": 3 }, box);
}

const LEFT = 0, WIDE = 1000, BAR = 20, TOP = 4, BOTTOM = 94;
const along = (frame, which) => LEFT + share(which, frame) * WIDE;
function drawLinks() {
  const box = $("links"), { i, j } = pair();
  box.replaceChildren();
  [[state.a, TOP], [state.b, BOTTOM]].forEach(([number, y], which) => {
    const video = videos[number], count = video.labels.length, { low, width } = seen(which);
    const kind = frame => video.labelled ? video.labels[frame] : chapterOf(video, frame);
    for (let from = 0, to; from < count; from = to) {
      for (to = from + 1; to < count && kind(to) === kind(from);) to++;
      make("rect", { x: LEFT + (from - low) / width * WIDE, y, width: (to - from) / width * WIDE, height: BAR,
        fill: video.labelled ? tint(kind(from)) : CHAPTERS[kind(from) % CHAPTERS.length],
        opacity: video.labelled && kind(from) < 0 ? .55 : 1 }, box);
    }
  });
  const step = Math.max(1, Math.round(i.length / 110));
  for (let s = 0; s < i.length; s += step) {
    const one = videos[state.a].labels[i[s]], other = videos[state.b].labels[j[s]];
    make("line", { x1: along(i[s], 0), y1: TOP + BAR, x2: along(j[s], 1), y2: BOTTOM, "stroke-width": 1.1,
      "vector-effect": "non-scaling-stroke", stroke: one === other ? tint(one) : data.noPhase,
      opacity: one === other && one >= 0 ? .75 : .4 }, box);
  }
  make("polyline", { id: "link", fill: "none", stroke: "var(--ink)", "stroke-width": 2.6,
    "vector-effect": "non-scaling-stroke" }, box);
}

function showAgreement() {
  const [aligned, stretched] = pair().agree, box = $("agree");
  box.replaceChildren();
  box.hidden = !(videos[state.a].labelled && videos[state.b].labelled);
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
    off = off || (labels.has(-1) && labels.size > 1);
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
function chip(node, video, label) {
  node.hidden = !video.labelled;
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
    item.querySelector("b").hidden = !video.labelled;
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
  if (follow([i[s], j[s]], false)) { drawMatrix(); drawLinks(); showAxes(); }
  const here = [[state.a, i[s], "a"], [state.b, j[s], "b"]];
  for (const [v, f, which] of here) {
    const shot = $("shot-" + which), cap = shot.nextElementSibling;
    fillShot(shot, videos[v], f);
    cap.querySelector("b").textContent = videos[v].id;
    chip(cap.querySelector(".chip"), videos[v], videos[v].labels[f]);
    cap.querySelector("time").textContent = moment(videos[v], f);
    if (shown().includes(v)) $("mark-" + which).setAttribute("transform", `translate(${spot(v, f)})`);
    $("mark-" + which).style.display = shown().includes(v) ? "" : "none";
  }
  const x = share(1, j[s]) * 400, y = share(0, i[s]) * 400;
  const set = (id, values) => { for (const key in values) $(id).setAttribute(key, values[key]); };
  set("cross", { cx: x, cy: y });
  set("cross-h", { x1: 0, x2: 400, y1: y, y2: y }); set("cross-v", { x1: x, x2: x, y1: 0, y2: 400 });
  const xa = along(i[s], 0), xb = along(j[s], 1), chapter = chapterOf(videos[state.a], i[s]);
  [...$("leaves").children].forEach((leaf, number) => leaf.classList.toggle("now", number === chapter));
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
  state.a = a; state.b = b; lastNear = ""; state.zoom = 1;
  state.t = frame === undefined ? 0 : Math.max(0, pair().i.indexOf(frame));
  const apart = videos[a].kind >= 0 && videos[a].kind !== videos[b].kind;  // one map has to hold both
  $("scope").disabled = apart; $("scope").value = apart ? "all" : chosenScope;
  $("pick-a").value = a; $("pick-b").value = b; $("scrub").max = pair().i.length - 1;
  drawMatrix(); drawLinks(); drawMap(); showAgreement(); drawChapters(); showAxes(); show();
}

/* Hands. */
$("scrub").oninput = event => { state.t = +event.target.value; show(); };
$("pick-a").onchange = event => choose(+event.target.value, state.b);
$("pick-b").onchange = event => choose(state.a, +event.target.value, pair().i[state.t]);
$("swap").onclick = () => choose(state.b, state.a, pair().j[state.t]);
$("tint").onchange = $("scope").onchange = () => { chosenScope = $("scope").value; drawMap(); show(); };
/* The point that was pressed, or the nearest one, as far away as a finger is wide. */
$("map").onclick = event => {
  const { v, f } = event.target.dataset;
  if (v !== undefined) { choose(+v, +v === state.a ? state.b : state.a, +f); return; }
  const frame = $("map").getBoundingClientRect(), scale = 640 / frame.width;
  const x = (event.clientX - frame.left) * scale, y = (event.clientY - frame.top) * scale;
  let best = null, least = Math.max(8, 18 * scale);
  for (const v of shown()) videos[v].labels.forEach((_, f) => {
    const [cx, cy] = spot(v, f), away = Math.hypot(cx - x, cy - y);
    if (away < least) { least = away; best = [v, f]; }
  });
  if (best) choose(best[0], best[0] === state.a ? state.b : state.a, best[1]);
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
  const { i, j } = pair();
  nearestStep(s => (share(1, j[s]) - x) ** 2 + (share(0, i[s]) - y) ** 2);
});
dragged($("links"), (x, y) => {
  const { i, j } = pair(), [list, which] = y < .5 ? [i, 0] : [j, 1];
  nearestStep(s => Math.abs(share(which, list[s]) - x));
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
$("closer").onclick = () => zoomTo(2 * state.zoom);
$("wider").onclick = () => zoomTo(state.zoom / 2);
$("whole").onclick = () => zoomTo(1);
addEventListener("resize", showAxes);
addEventListener("keydown", event => {
  if (event.key === "+" || event.key === "-") zoomTo(event.key === "+" ? 2 * state.zoom : state.zoom / 2);
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
