// Pictures that play when they are pressed, by mouse, finger or key; one at a time.
let playing = null;
function stop() {
  if (!playing) return;
  clearInterval(playing.timer); playing.node.setAttribute("aria-pressed", "false"); playing = null;
}
function place(node, frame) {
  const count = +node.dataset.count;
  node.style.backgroundPosition = (count > 1 ? 100 * frame / (count - 1) : 0) + "% 0";
  node.dataset.frame = frame;
}
for (const node of document.querySelectorAll("button.moving")) {
  const count = +node.dataset.count;
  place(node, Math.floor(count / 2));
  node.addEventListener("click", () => {
    const own = playing && playing.node === node;
    stop();
    if (own) return;
    let frame = 0;
    place(node, frame);
    node.setAttribute("aria-pressed", "true");
    const step = Math.max(60, 1000 * node.dataset.sec / count);
    playing = { node, timer: setInterval(() => { frame = (frame + 1) % count; place(node, frame); }, step) };
  });
}
