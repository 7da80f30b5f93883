"use strict";
(() => {
  const MOST_BARS = 40, NORMAL_95 = 1.96, GAP = 0.12, CAP = 0.15, NEAR = 14;
  const { videos } = JSON.parse(document.getElementById("values").textContent);
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const cards = [...gallery.children];

  // Charts: the formulas of chart.py.

  const round = (value) => Math.round(value * 100) / 100;

  function number(value, sign = false) {
    const plus = sign && value >= 0 ? "+" : "";
    const plain = value === 0 || Math.abs(value) >= 0.001;
    return plus + (plain ? value.toFixed(3) : value.toExponential(1));
  }

  function words(frame, value, half) {
    const error = half === null ? "" : ` ± ${number(half)}`;
    const kind = value > 0 ? "supporting" : "distracting";
    return `frame ${frame}: ESV ${number(value, true)}${error}, ${kind}`;
  }

  function chart(values) {
    const esv = values.esv.map((value) => value ?? 0);
    const sampled = values.std_error !== null;
    const half = esv.map((_, i) => (sampled ? NORMAL_95 * (values.std_error[i] ?? 0) : 0));
    const low = Math.min(0, ...esv.map((value, i) => value - half[i]));
    let high = Math.max(0, ...esv.map((value, i) => value + half[i]));
    if (high <= low) high = low + 1;
    const y = (value) => round((100 * (high - value)) / (high - low));
    const zero = y(0), bars = esv.length <= MOST_BARS, gap = bars ? GAP : 0;
    const paths = { supporting: "", distracting: "", whiskers: "", band: "", step: "" };
    let back = "";
    esv.forEach((value, i) => {
      const top = y(value), lower = y(value - half[i]), upper = y(value + half[i]);
      const box = `M${round(i + gap)} ${zero}V${top}H${round(i + 1 - gap)}V${zero}Z`;
      paths[value > 0 ? "supporting" : "distracting"] += box;
      if (!bars) paths.step += (i ? "" : `M0 ${top}`) + `V${top}H${i + 1}`;
      if (bars && sampled) {
        const left = round(i + 0.5 - CAP), right = round(i + 0.5 + CAP);
        paths.whiskers +=
          `M${left} ${lower}H${right}M${i + 0.5} ${lower}V${upper}M${left} ${upper}H${right}`;
      }
      if (!bars && sampled) {
        paths.band += (i ? "" : `M0 ${upper}`) + `V${upper}H${i + 1}`;
        back = `V${lower}H${i}` + back;
      }
    });
    if (back) paths.band += back + "Z";
    const ends = {
      top: zero > NEAR ? number(high) : "",
      bottom: zero < 100 - NEAR ? number(low) : "",
    };
    return { esv, half: sampled ? half : null, paths, zero, ends };
  }

  // One card: another class, and one element marked in the chart, below it and in the table.

  function prepare(card, video) {
    const one = (selector) => card.querySelector(selector);
    const choice = one("select.class");
    if (!choice) return;
    const hits = [...card.querySelectorAll(".hit")];
    const frames = [...card.querySelectorAll(".frames li")];
    const rows = [...card.querySelectorAll("tbody tr")];
    const readout = one(".readout");
    const n = hits.length;
    let marked = -1;

    function mark(i) {
      for (const list of [hits, frames, rows])
        for (const item of list) item.classList.remove("on");
      marked = i;
      readout.textContent = i < 0 ? "\u00a0" : hits[i].getAttribute("aria-label");
      if (i < 0) return;
      hits[i].classList.add("on");
      rows[i].classList.add("on");
      const slot = Math.floor((i * frames.length) / n);
      frames[slot].classList.add("on");
    }

    function go(i) {
      for (const hit of hits) hit.setAttribute("tabindex", "-1");
      hits[i].setAttribute("tabindex", "0");
      hits[i].focus();
    }

    function show(values) {
      const { esv, half, paths, zero, ends } = chart(values);
      for (const [name, path] of Object.entries(paths))
        one(`path.${name}`).setAttribute("d", path);
      one("path.zero").setAttribute("d", `M0 ${zero}H${n}`);
      one(".end-zero").style.top = `${zero}%`;
      one(".end-top").textContent = ends.top;
      one(".end-bottom").textContent = ends.bottom;
      for (const name of card.querySelectorAll(".shown")) name.textContent = values.name;
      one(".sum").textContent = `score ${number(values.score)}, prior ${number(values.prior)}`;
      esv.forEach((value, i) => {
        const text = words(video.elements[i], value, half && half[i]);
        hits[i].setAttribute("aria-label", text);
        rows[i].cells[2].textContent = number(value, true);
        if (half) rows[i].cells[3].textContent = number(values.std_error[i] ?? 0);
      });
      if (marked >= 0) mark(marked);
    }

    hits.forEach((hit, i) => {
      hit.addEventListener("pointerenter", () => mark(i));
      hit.addEventListener("focus", () => mark(i));
    });
    rows.forEach((row, i) => row.addEventListener("pointerenter", () => mark(i)));
    frames.forEach((frame, slot) => {
      const i = Math.floor(((2 * slot + 1) * n) / (2 * frames.length));
      frame.addEventListener("pointerenter", () => mark(i));
    });
    const leave = () => mark(hits.indexOf(document.activeElement));
    card.addEventListener("pointerleave", leave);
    card.addEventListener("focusout", () => setTimeout(leave));
    card.addEventListener("keydown", (event) => {
      if (event.target === choice || event.altKey || event.ctrlKey || event.metaKey) return;
      const steps = { ArrowLeft: Math.max(marked - 1, 0), ArrowRight: Math.min(marked + 1, n - 1) };
      const to = { ...steps, Home: 0, End: n - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      go(to);
    });
    choice.addEventListener("change", () => show(video.classes[Number(choice.value)]));
    if (video.classes.length > 1) choice.parentElement.hidden = false;
    if (Number(choice.value) !== video.shown) show(video.classes[Number(choice.value)]);
  }

  // All cards: searched and sorted.

  const search = document.getElementById("search");
  const sort = document.getElementById("sort");
  const reverse = document.getElementById("reverse");
  const texts = videos.map((v) => `${v.uid}\n${v.true}\n${v.predicted}`.toLowerCase());
  const rank = (value) => (value === false ? 0 : value === true ? 1 : 2);
  const keys = {
    page: (v, i) => i,
    evidence: (v) => v.evidence ?? -Infinity,
    gap: (v) => v.gap ?? -Infinity,
    correct: (v) => rank(v.correct),
  };

  function compare(a, b) {
    if (sort.value === "uid") {
      const [left, right] = [videos[a].uid, videos[b].uid];
      return left < right ? -1 : left > right ? 1 : 0;
    }
    const key = keys[sort.value];
    const [left, right] = [key(videos[a], a), key(videos[b], b)];
    return left < right ? -1 : left > right ? 1 : 0;
  }

  function arrange() {
    const wanted = search.value.trim().toLowerCase();
    const order = videos.map((_, i) => i).sort((a, b) => compare(a, b) || a - b);
    if (reverse.checked) order.reverse();
    gallery.append(...order.map((i) => cards[i]));
    let found = 0;
    cards.forEach((card, i) => {
      card.hidden = !texts[i].includes(wanted);
      if (!card.hidden) found += 1;
    });
    document.getElementById("none").hidden = found > 0;
    document.getElementById("found").textContent =
      found === cards.length ? "" : `${found} of ${cards.length} shown`;
  }

  cards.forEach((card, i) => prepare(card, videos[i]));
  search.addEventListener("input", arrange);
  for (const control of [sort, reverse]) control.addEventListener("change", arrange);
  document.querySelector(".controls").hidden = false;
  if (search.value || sort.value !== "page" || reverse.checked) arrange(); // kept by a reload
})();
