"use strict";
(() => {
  const MOST_BARS = 40, GAP = 0.12, CAP = 0.15, NEAR = 14;
  const NORMAL_95 = 1.959963984540054;
  const { videos } = JSON.parse(document.getElementById("values").textContent);
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const cards = [...gallery.children];

  // Numbers, as Python writes them.

  function fixed(value, digits) {
    const size = Math.abs(value);
    if ((size * 2 ** (digits + 1)) % 2 !== 1) return value.toFixed(digits);
    const units = Math.floor(size * 10 ** digits); // exactly half-way: to the even digit
    return (value < 0 ? "-" : "") + ((units + (units % 2)) / 10 ** digits).toFixed(digits);
  }

  function number(value, sign = false) {
    if (value === null) return "\u2013";
    const plus = sign && value >= 0 ? "+" : "";
    const plain = value === 0 || Math.abs(value) >= 0.001;
    return plus + (plain ? fixed(value, 3) : value.toExponential(1));
  }

  function words(frame, value, half) {
    if (value === null) return `frame ${frame}: ESV not known`;
    const error = half === null ? "" : ` ± ${number(half)}`;
    const kind = value > 0 ? "supporting" : "distracting";
    return `frame ${frame}: ESV ${number(value, true)}${error}, ${kind}`;
  }

  const single = (value) => (value === null ? null : Math.fround(value));
  const less = (a, b) => (a === null || b === null ? null : Math.fround(a - b));

  // What is shown: a class, or a class minus another, whose interval nobody knows.

  function valuesOf(a, b) {
    const from = (name) => (b ? less(single(a[name]), single(b[name])) : single(a[name]));
    const esv = a.esv.map((value, i) => (b ? less(single(value), single(b.esv[i])) : single(value)));
    const error = b || !a.std_error ? esv.map(() => null) : a.std_error.map(single);
    const half = error.map((e) => (e === null ? null : Math.fround(Math.fround(NORMAL_95) * e)));
    const sampled = a.std_error !== null && !b;
    return { score: from("score"), prior: from("prior"), esv, error, half, sampled };
  }

  // Bars: the formulas of svg.py.

  function chart(values) {
    const esv = values.esv.map((value) => value ?? 0), half = values.half.map((h) => h ?? 0);
    const low = Math.min(0, ...esv.map((value, i) => value - half[i]));
    let high = Math.max(0, ...esv.map((value, i) => value + half[i]));
    if (high <= low) high = low + 1;
    const at = (value) => Number(fixed(value, 2));
    const y = (value) => (100 * (high - value)) / (high - low);
    const zero = y(0), bars = esv.length <= MOST_BARS, gap = bars ? GAP : 0;
    const paths = { supporting: "", distracting: "", whiskers: "", band: "", step: "" };
    let back = "";
    esv.forEach((value, i) => {
      const top = at(y(value)), lower = at(y(value - half[i])), upper = at(y(value + half[i]));
      const box = `M${at(i + gap)} ${at(zero)}V${top}H${at(i + 1 - gap)}V${at(zero)}Z`;
      paths[value > 0 ? "supporting" : "distracting"] += box;
      if (!bars) paths.step += (i ? "" : `M0 ${top}`) + `V${top}H${i + 1}`;
      if (bars && values.sampled) {
        const left = at(i + 0.5 - CAP), right = at(i + 0.5 + CAP);
        paths.whiskers +=
          `M${left} ${lower}H${right}M${i + 0.5} ${lower}V${upper}M${left} ${upper}H${right}`;
      }
      if (!bars && values.sampled) {
        paths.band += (i ? "" : `M0 ${upper}`) + `V${upper}H${i + 1}`;
        back = `V${lower}H${i}` + back;
      }
    });
    if (back) paths.band += back + "Z";
    return {
      paths,
      zero: at(zero),
      top: zero > NEAR ? number(high) : "",
      bottom: zero < 100 - NEAR ? number(low) : "",
    };
  }

  // One card: other values, and one element marked in the chart, below it and in the table.

  function reveal(box, item) {
    const outer = box.getBoundingClientRect(), inner = item.getBoundingClientRect();
    if (inner.top < outer.top || inner.bottom > outer.bottom)
      box.scrollTop += inner.top - outer.top - (outer.height - inner.height) / 2;
    if (inner.left < outer.left || inner.right > outer.right)
      box.scrollLeft += inner.left - outer.left - (outer.width - inner.width) / 2;
  }

  function prepare(card, video) {
    const one = (selector) => card.querySelector(selector);
    const choice = one("select.class"), minus = one("select.minus");
    if (!choice) return () => {};
    const hits = [...card.querySelectorAll(".hit")];
    const frames = [...card.querySelectorAll(".frames li")];
    const rows = [...card.querySelectorAll("tbody tr")];
    const elements = frames.map((frame) => Number(frame.dataset.element));
    const readout = one(".readout"), table = one("details.numbers");
    const n = hits.length;
    let marked = -1;

    function nearest(i) {
      let best = 0;
      elements.forEach((element, j) => {
        if (Math.abs(element - i) < Math.abs(elements[best] - i)) best = j;
      });
      return best;
    }

    function mark(i, from = null) {
      for (const item of card.querySelectorAll(".on")) item.classList.remove("on", "near");
      marked = i;
      readout.textContent = i < 0 ? "\u00a0" : hits[i].getAttribute("aria-label");
      if (i < 0) return;
      const j = nearest(i);
      for (const item of [hits[i], rows[i], frames[j]]) item.classList.add("on");
      if (elements[j] !== i) frames[j].classList.add("near");
      if (table.open && from !== "row") reveal(one(".rows"), rows[i]);
      if (from === "row") reveal(one(".scroll"), hits[i]);
    }

    function go(i) {
      for (const hit of hits) hit.setAttribute("tabindex", "-1");
      hits[i].setAttribute("tabindex", "0");
      hits[i].focus();
    }

    function show() {
      const a = video.classes[choice.value], b = video.classes[minus.value] ?? null;
      const values = valuesOf(a, b), drawn = chart(values);
      for (const [name, path] of Object.entries(drawn.paths))
        one(`path.${name}`).setAttribute("d", path);
      one("path.zero").setAttribute("d", `M0 ${drawn.zero}H${n}`);
      one(".end-zero").style.top = `${drawn.zero}%`;
      one(".end-top").textContent = drawn.top;
      one(".end-bottom").textContent = drawn.bottom;
      for (const name of card.querySelectorAll(".shown")) name.textContent = a.name;
      for (const name of card.querySelectorAll(".other")) name.textContent = b ? b.name : "";
      for (const part of card.querySelectorAll(".less")) part.hidden = !b;
      const unknown = b && a.std_error ? "; its intervals are not known" : "";
      const sum = `score ${number(values.score)}, prior ${number(values.prior)}`;
      one(".sum").textContent = sum + unknown;
      values.esv.forEach((value, i) => {
        hits[i].setAttribute("aria-label", words(video.elements[i], value, values.half[i]));
        rows[i].cells[2].textContent = number(value, true);
        if (a.std_error) rows[i].cells[3].textContent = number(values.error[i]);
      });
      if (marked >= 0) readout.textContent = hits[marked].getAttribute("aria-label");
    }

    /** Shows the class of the page, the predicted or the true one, or the difference of these. */
    function view(name) {
      const { predicted, true: right } = video.place;
      const known = name === "contrast" ? predicted !== null && right !== null : true;
      const first = { page: video.shown, predicted, true: right, contrast: right }[name];
      if (!known || first === null) return;
      choice.value = first;
      minus.value = name === "contrast" && predicted !== right ? predicted : "";
      show();
    }

    for (const option of choice.options) minus.append(option.cloneNode(true));
    minus.value = "";
    hits.forEach((hit, i) => {
      hit.addEventListener("pointerenter", () => mark(i));
      hit.addEventListener("focus", () => mark(i));
    });
    rows.forEach((row, i) => row.addEventListener("pointerenter", () => mark(i, "row")));
    frames.forEach((frame, j) => {
      frame.addEventListener("pointerenter", () => mark(elements[j]));
      frame.addEventListener("click", () => go(elements[j]));
    });
    const leave = () => mark(hits.indexOf(document.activeElement));
    card.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") leave(); // a finger that is lifted has not gone elsewhere
    });
    card.addEventListener("focusout", (event) => {
      if (event.target === hits[marked]) setTimeout(leave);
    });
    one("svg").addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const steps = { ArrowLeft: Math.max(marked - 1, 0), ArrowRight: Math.min(marked + 1, n - 1) };
      const to = { ...steps, Home: 0, End: n - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      go(to);
    });
    for (const select of [choice, minus]) select.addEventListener("change", show);
    one(".picks").hidden = video.classes.length < 2;
    if (Number(choice.value) !== video.shown) show(); // kept by a reload
    return view;
  }

  // All cards: searched, sorted, and found by their names in an address.

  const [search, only, sort, reverse, view] = ["search", "only", "sort", "reverse", "view"].map(
    (id) => document.getElementById(id),
  );
  const texts = videos.map((v) => `${v.uid}\n${v.true}\n${v.predicted}`.toLowerCase());
  const keys = {
    page: (v, i) => i,
    uid: (v) => v.uid,
    score: (v) => v.score,
    evidence: (v) => v.evidence,
    gap: (v) => v.gap,
    correct: (v) => (v.correct === null ? null : Number(v.correct)),
  };

  function arrange() {
    const key = videos.map(keys[sort.value]);
    const sign = reverse.checked ? -1 : 1;
    const compare = (a, b) => {
      if (key[a] === null || key[b] === null) return (key[a] === null) - (key[b] === null);
      return key[a] < key[b] ? -sign : key[a] > key[b] ? sign : 0;
    };
    const order = videos.map((_, i) => i).sort((a, b) => compare(a, b) || a - b);
    gallery.append(...order.map((i) => cards[i]));
  }

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    const verdict = { all: null, wrong: false, correct: true }[only.value];
    let found = 0;
    cards.forEach((card, i) => {
      const fits = verdict === null || videos[i].correct === verdict;
      card.hidden = !fits || !texts[i].includes(wanted);
      if (!card.hidden) found += 1;
    });
    document.getElementById("none").hidden = found > 0;
    document.getElementById("found").textContent =
      found === cards.length ? "" : `${found} of ${cards.length} shown`;
  }

  /** Goes to the video that the address names: `#video=` and its uid, or the uid alone. */
  function visit() {
    let name = location.hash.slice(1);
    const at = cards.findIndex((card) => card.id === name);
    try {
      name = decodeURIComponent(name);
    } catch {} // a lone % stands for itself
    const place = at >= 0 ? at : videos.findIndex((v) => v.uid === name);
    if (!name || place < 0) return;
    const card = cards[place];
    if (card.hidden) {
      search.value = "";
      only.value = "all";
      filter();
    }
    if (at >= 0) card.scrollIntoView();
    else location.replace(`#${card.id}`);
  }

  const views = cards.map((card, i) => prepare(card, videos[i]));
  search.addEventListener("input", filter);
  only.addEventListener("change", filter);
  for (const control of [sort, reverse]) control.addEventListener("change", arrange);
  view.addEventListener("change", () => views.forEach((choose) => choose(view.value)));
  addEventListener("hashchange", visit);
  document.querySelector(".hint").hidden = false;
  document.querySelector(".controls").hidden = cards.length < 2;
  if (search.value || only.value !== "all") filter(); // these, too
  if (sort.value !== "page" || reverse.checked) arrange();
  visit();
})();
