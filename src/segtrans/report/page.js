// One slider per example moves the line between clean and attacked; pictures can be dragged as well.
for (const figure of document.querySelectorAll(".example")) {
  const label = figure.querySelector(".cut"), range = label.querySelector("input");
  const cut = () => figure.style.setProperty("--cut", range.value + "%");
  const drag = event => {
    const tile = event.target.closest(".pair"), box = tile && tile.getBoundingClientRect();
    if (tile && event.buttons) { range.value = 100 * (event.clientX - box.left) / box.width; cut(); }
  };
  label.hidden = false;
  range.addEventListener("input", cut);
  figure.addEventListener("pointerdown", drag);
  figure.addEventListener("pointermove", drag);
}
