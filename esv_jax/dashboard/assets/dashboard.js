// The cursor over the bars, clicks on them, and keys. All state is in the page's address.
"use strict";

(() => {
  const at = (id) => document.getElementById(id);
  const box = () => at("player-box");
  const fps = () => Number(box()?.dataset.fps) || 0;
  const frames = () => JSON.parse(box()?.dataset.frames || "[]");

  // The middle of a frame, so that rounding shows no neighbour.
  const seek = (frame) => {
    const player = at("player");
    if (player && fps()) player.currentTime = (frame + 0.5) / fps();
  };

  // In the list, the video that is shown; the list itself is made anew only for other filters.
  let marked = "";
  let list = null;
  const mark = () => {
    const uid = at("shown-uid")?.textContent ?? "";
    const now = at("matches")?.querySelector(".uids") ?? null;
    if (uid === marked && now === list) return;
    [marked, list] = [uid, now];
    for (const link of list?.querySelectorAll("a") ?? []) {
      const here = new URL(link.href).searchParams.get("uid") === uid;
      link.classList.toggle("here", here);
      if (!here) continue;
      const top = link.offsetTop - list.offsetTop;
      const isSeen = top >= list.scrollTop && top + link.offsetHeight <= list.scrollTop + list.clientHeight;
      if (!isSeen) list.scrollTop = top - list.clientHeight / 2;
    }
  };

  const moveCursor = () => {
    mark();
    const player = at("player");
    const cursor = at("cursor");
    const graph = at("timeline")?.querySelector(".js-plotly-plot");
    const axis = graph?._fullLayout?.xaxis;
    if (cursor) {
      const isShown = player && axis?.d2p && fps();
      const x = isShown ? axis._offset + axis.d2p(player.currentTime * fps() - 0.5) : -1;
      const inside = isShown && x >= axis._offset && x <= axis._offset + axis._length;
      cursor.style.visibility = inside ? "visible" : "hidden";
      cursor.style.transform = `translateX(${x}px)`;
    }
    window.requestAnimationFrame(moveCursor);
  };

  const step = (by) => {
    const player = at("player");
    const places = [...new Set(frames())].sort((a, b) => a - b);
    if (!player || !fps() || !places.length) return;
    const now = player.currentTime * fps() - 0.5;
    const next = by > 0 ? places.find((f) => f > now + 0.25)
                        : places.findLast((f) => f < now - 0.25);
    player.pause();
    seek(next ?? (by > 0 ? places.at(-1) : places[0]));
  };

  const keys = {
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    ArrowUp: () => at("previous-video")?.click(),
    ArrowDown: () => at("next-video")?.click(),
    k: () => at("previous-video")?.click(),
    j: () => at("next-video")?.click(),
  };

  const isWritten = (element) =>
    Boolean(element.closest?.("input, textarea, select, [role=slider], [role=listbox], .dash-dropdown"));

  document.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    const plain = !(event.ctrlKey || event.metaKey || event.altKey || event.shiftKey);
    if (!act || !plain || at("video-page")?.hidden || isWritten(event.target)) return;
    event.preventDefault();
    act();
  }, true);

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    esv: {
      // Gives null back, so that the same bar can be clicked again.
      seek: (clicked) => {
        if (!clicked?.points?.length) return window.dash_clientside.no_update;
        seek(clicked.points[0].x);
        return null;
      },
    },
  });
  window.requestAnimationFrame(moveCursor);
})();
