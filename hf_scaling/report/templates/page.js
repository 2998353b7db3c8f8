// Pointing at a mark names its run; sliders choose a budget; links open what is folded. Nothing is loaded.
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  document.body.append(tip);
  const reach = 22;

  for (const svg of document.querySelectorAll("figure svg")) {
    const marks = [...svg.querySelectorAll("use > title")].map((title) => {
      const mark = { use: title.parentNode, text: title.textContent };
      title.remove();
      return mark;
    });
    if (!marks.length) continue;
    let shown = null;
    const hide = () => {
      if (shown) shown.use.classList.remove("near");
      shown = null;
      tip.classList.remove("shown");
    };
    const show = (event) => {
      const at = svg.getScreenCTM();
      let nearest = null;
      let least = reach * reach;
      for (const mark of marks) {
        const x = at.a * mark.use.getAttribute("x") + at.e - event.clientX;
        const y = at.d * mark.use.getAttribute("y") + at.f - event.clientY;
        if (x * x + y * y < least) [nearest, least] = [mark, x * x + y * y];
      }
      if (!nearest) return hide();
      if (nearest === shown) return;
      hide();
      shown = nearest;
      shown.use.classList.add("near");
      tip.textContent = shown.text;
      tip.classList.add("shown");
      const mark = { x: at.a * shown.use.getAttribute("x") + at.e, y: at.d * shown.use.getAttribute("y") + at.f };
      const left = Math.min(Math.max(8, mark.x - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
      const top = mark.y - tip.offsetHeight - 12;
      tip.style.left = `${left}px`;
      tip.style.top = `${top < 8 ? mark.y + 14 : top}px`;
    };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", hide);
  }

  for (const box of document.querySelectorAll(".budgets")) {
    const lines = [...box.querySelectorAll("li")];
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: 0, max: lines.length - 1, step: 1, value: box.dataset.start });
    slider.setAttribute("aria-label", `budget, ${box.dataset.title}`);
    const output = document.createElement("output");
    const choose = () => {
      lines.forEach((line, i) => line.classList.toggle("chosen", i === +slider.value));
      output.textContent = lines[slider.value].textContent;
      slider.setAttribute("aria-valuetext", output.textContent);
    };
    slider.addEventListener("input", choose);
    box.querySelector(".slider").append(slider, output);
    choose();
  }

  const open = (element) => {
    for (let at = element; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  };
  const follow = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (!target) return;
    open(target.querySelector(":scope > details") || target);
    target.scrollIntoView();
  };
  addEventListener("hashchange", follow);
  follow();
})();
