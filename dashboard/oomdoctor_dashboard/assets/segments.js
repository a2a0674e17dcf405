/* The map of segments: which box the pointer is on, and the buttons of the panel beside it. */
window.dash_clientside = window.dash_clientside || {};
(function () {
  "use strict";

  // Of figures/segments.py: points of a box, and of a line's height what is no gap.
  const POINTS = 5;
  const TALL = 0.9;
  // A box may be narrower than a pixel.
  const SLACK_PX = 3;
  // A pointer that moved further was dragging.
  const CLICK_PX = 4;

  /* The number of the box at a place on the screen, and where its line is; null where there is none. */
  function boxAt(graph, clientX, clientY) {
    const { xaxis, yaxis } = graph._fullLayout || {};
    if (!xaxis || !yaxis || !graph._fullData) return null;
    const frame = graph.getBoundingClientRect();
    const left = clientX - frame.left - xaxis._offset;
    const top = clientY - frame.top - yaxis._offset;
    if (left < 0 || top < 0 || left > xaxis._length || top > yaxis._length) return null;
    const x = xaxis.p2l(left);
    const y = yaxis.p2l(top);
    const line = Math.round(y);
    if (Math.abs(y - line) > TALL / 2) return null;
    let nearest = xaxis.p2l(left + SLACK_PX) - x;
    let found = null;
    for (const trace of graph._fullData) {
      if (!Array.isArray(trace.meta)) continue;
      for (let i = 0; i < trace.meta.length; i++) {
        const at = i * POINTS;
        if (Math.abs(trace.y[at] - line) > TALL / 2 || trace.y[at] > line) continue;
        const away = Math.max(trace.x[at] - x, x - trace.x[at + 1], 0);
        if (away < nearest || (away === 0 && nearest === 0)) {
          nearest = away;
          found = trace.meta[i];
        }
      }
    }
    if (found === null) return null;
    const edge = (half) => yaxis._offset + yaxis.l2p(line + (half * TALL) / 2);
    const across = xaxis._offset + left;
    return { box: found, bbox: { x0: across, x1: across, y0: edge(-1), y1: edge(1) } };
  }

  const graphOf = (target) => {
    const holder = target && target.closest && target.closest("#segments-graph");
    return holder && holder.querySelector(".js-plotly-plot");
  };

  let pointed = null; // the last box, and the figure that it is of
  let waits = null;

  function point(event) {
    waits = null;
    const graph = graphOf(event.target);
    const found = graph && boxAt(graph, event.clientX, event.clientY);
    const now = found ? { box: found.box, data: graph.data } : null;
    if (now ? pointed && pointed.box === now.box && pointed.data === now.data : !pointed) return;
    pointed = now;
    if (found) window.dash_clientside.set_props("segments-tooltip", { bbox: found.bbox });
    window.dash_clientside.set_props("segments-pointed", { data: found && found.box });
  }

  document.addEventListener("mousemove", function (event) {
    if (!pointed && !graphOf(event.target)) return;
    if (!waits) requestAnimationFrame(() => point(waits));
    waits = event;
  });

  let pressed = null;
  document.addEventListener(
    "mousedown",
    function (event) {
      const graph = event.button === 0 && event.target.closest(".nsewdrag") && graphOf(event.target);
      pressed = graph ? { graph: graph, x: event.clientX, y: event.clientY } : null;
    },
    true
  );
  document.addEventListener(
    "mouseup",
    function (event) {
      const from = pressed;
      pressed = null;
      if (!from || Math.hypot(event.clientX - from.x, event.clientY - from.y) > CLICK_PX) return;
      const found = boxAt(from.graph, from.x, from.y);
      if (found) window.dash_clientside.set_props("segments-picked", { data: { box: found.box, at: Date.now() } });
    },
    true
  );

  window.dash_clientside.oomdoctor_segments = {
    /* Of a button in the panel. Buttons that appear call this as well, and nobody has clicked those. */
    follow: function (...args) {
      const view = args[args.length - 1];
      const context = window.dash_clientside.callback_context;
      const asked = context.triggered_id;
      if (!view || !asked || !context.triggered.some((one) => one.value)) {
        return window.dash_clientside.no_update;
      }
      if (asked.type === "segments-go") {
        return { ...view, event: asked.event };
      }
      const mine = { ...((view.options || {}).segments || {}) };
      const name = asked.type === "segments-pick" ? "block" : "alone";
      if (asked.address) {
        mine[name] = asked.address;
      } else {
        delete mine[name];
      }
      return { ...view, options: { ...(view.options || {}), segments: mine } };
    },
  };
})();
