"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const slider = document.getElementById("step");
  const button = document.getElementById("play");
  const STEP_MS = 90;
  let timer = null;

  const show = () => {
    const step = Number(slider.value);
    data.videos.forEach((video, side) => {
      const name = "ab"[side];
      const frame = data.steps[side][step];
      const picture = document.getElementById(name);
      picture.src = video.pictures[Math.min(frame, video.pictures.length - 1)];
      picture.alt = `${video.id}, frame ${frame}`;
      picture.title = video.reason;
      const time = video.times[frame];
      const caption = document.getElementById(`about-${name}`);
      const dot = document.createElement("span");
      dot.style.color = video.colors[frame];
      dot.textContent = video.phases[frame] ? " \u25cf " : "";
      const when = time === null ? `frame ${frame}` : `${time.toFixed(2)} s`;
      caption.replaceChildren(`${video.id}  ${when}`, dot, video.phases[frame]);
    });
    document.documentElement.dataset.step = String(step);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  };

  slider.max = String(data.steps[0].length - 1);
  slider.addEventListener("input", () => {
    stop();
    show();
  });
  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (slider.value === slider.max) slider.value = "0";
    button.textContent = "Stop";
    timer = setInterval(() => {
      slider.value = String(Number(slider.value) + 1);
      show();
      if (slider.value === slider.max) stop();
    }, STEP_MS);
  });
  show();
  document.documentElement.dataset.ready = "yes";
})();
