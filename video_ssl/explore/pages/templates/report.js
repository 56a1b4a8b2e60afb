// Every curve carries its points in data-points: [x, y in the drawing, step, value as text].
const tip = document.getElementById("tip");
for (const chart of document.querySelectorAll("svg.chart")) {
  const series = JSON.parse(chart.dataset.points);
  const cursor = chart.querySelector(".cursor");
  const read = event => {
    const box = chart.getBoundingClientRect();
    const x = (event.clientX - box.left) * chart.viewBox.baseVal.width / box.width;
    const near = series.filter(s => s.points.length).map(s => [s.name,
      s.points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a)]);
    const at = near[0][1];
    cursor.setAttribute("x1", at[0]); cursor.setAttribute("x2", at[0]); cursor.style.visibility = "visible";
    tip.textContent = "step " + at[2] + "\n" + near.map(([name, p]) => name + "  " + p[3]).join("\n");
    tip.style.display = "block";
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = (event.clientY + 14) + "px";
  };
  chart.addEventListener("pointermove", read);
  chart.addEventListener("pointerdown", read);  // a finger has nothing to hover with
  chart.addEventListener("pointerleave", event => {
    if (event.pointerType === "touch") return;  // it stays to be read until something else is pressed
    tip.style.display = "none"; cursor.style.visibility = "hidden";
  });
}
// What the drawings say where the pointer rests, a finger reads by pressing.
addEventListener("click", event => {
  const said = event.target.querySelector && event.target.querySelector("title");
  const chart = event.target.closest && event.target.closest("svg.chart");
  if (chart) return;
  tip.style.display = said ? "block" : "none";
  if (!said) return;
  tip.textContent = said.textContent;
  tip.style.left = Math.max(8, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = (event.clientY + 14) + "px";
});
