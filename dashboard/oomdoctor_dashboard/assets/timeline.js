/* The timeline's way from a click to the view that is wanted: without a server, so that nothing else that was
   wanted meanwhile is lost. */
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.oomdoctor_timeline = {
  /* Whether two views differ in the moment alone, as far as what a page draws over the timeline's stretch goes. */
  alike: function (one, other, page) {
    const key = (view) => [
      view.item, view.device, view.low, view.high, view.theme, view.axis, (view.options || {})[page] || {},
    ];
    return Boolean(one && other) && JSON.stringify(key(one)) === JSON.stringify(key(other));
  },

  settings: function (view) {
    const mode = view.options && view.options.timeline && view.options.timeline.mode;
    return [mode || "lines", view.axis || "events"];
  },

  /* The switches show what the view says. One that shows it already is left alone: setting it anew would pass
     for a person's choice, and be heard when the view has moved on. */
  controls: function (view, mode, axis) {
    const all = window.dash_clientside;
    const now = all.oomdoctor_timeline.settings(view);
    if (now[0] !== mode) all.set_props("timeline-mode", { value: now[0] });
    if (now[1] !== axis) all.set_props("timeline-axis", { value: now[1] });
  },

  chosen: function (mode, axis, view) {
    const none = window.dash_clientside.no_update;
    if (!view) {
      return none;
    }
    const before = window.dash_clientside.oomdoctor_timeline.settings(view);
    if (before[0] === mode && before[1] === axis) {
      return none;
    }
    const here = window.dash_clientside.oomdoctor;
    const mine = { ...here.optionsOf(view, "timeline"), mode: mode };
    if (mode === "lines") {
      delete mine.mode;
    }
    return here.wish(view, { ...here.withOptions(view, "timeline", mine), axis: axis });
  },

  /* The window that the server made of what was zoomed to. */
  zoomed: function (asked, view) {
    const none = window.dash_clientside.no_update;
    if (!asked || !view || asked.item !== view.item || asked.device !== view.device) {
      return none;
    }
    if (asked.low === view.low && asked.high === view.high) {
      return none;
    }
    return window.dash_clientside.oomdoctor.wish(view, { ...view, low: asked.low, high: asked.high });
  },

  /* The axis was changed: over events the stretch is known here, over time the server knows it. */
  relaid: function (relayout, view, info) {
    const none = window.dash_clientside.no_update;
    const here = window.dash_clientside.oomdoctor_timeline;
    if (!relayout || !view || !info || info.item !== view.item || info.device !== view.device) {
      return [none, none];
    }
    if (relayout["xaxis.autorange"]) {
      return [here.reset(view), none];
    }
    const ends = relayout["xaxis.range"] || [relayout["xaxis.range[0]"], relayout["xaxis.range[1]"]];
    if (!Array.isArray(ends) || ends.length !== 2 || !ends.every(Number.isFinite)) {
      return [none, none];
    }
    if (view.axis === "time" && info.has_times) {
      return [none, relayout];
    }
    const [low, high] = here.fitted(Math.floor(Math.min(...ends)), Math.ceil(Math.max(...ends)), info.events);
    const now = view.low === null ? [0, info.events] : here.fitted(view.low, view.high, info.events);
    const narrowest = now[1] - now[0] <= Math.min(4, info.events);
    const within = Math.min(...ends) >= now[0] && Math.max(...ends) <= now[1];
    if ((low === now[0] && high === now[1]) || (narrowest && within)) {
      if (ends[0] !== now[0] || ends[1] !== now[1]) {
        // Nothing is drawn anew, so what was dragged to has to be left again.
        window.Plotly.relayout(document.querySelector("#timeline-graph .js-plotly-plot"), { "xaxis.range": now });
      }
      return [none, none];
    }
    const all = low === 0 && high === info.events;
    const stretch = all ? { low: null, high: null } : { low: low, high: high };
    return [window.dash_clientside.oomdoctor.wish(view, { ...view, ...stretch }), none];
  },

  /* As Timeline.window in timeline_data.py: within the recording, and not too narrow. */
  fitted: function (low, high, events) {
    const within = (event) => Math.max(0, Math.min(event, events));
    const least = Math.min(4, events);
    low = within(low);
    high = within(high);
    if (high - low < least) {
      low = Math.max(0, low - Math.floor((least - (high - low) + 1) / 2));
      high = Math.min(events, low + least);
      low = Math.max(0, high - least);
    }
    return [low, high];
  },

  /* A double click shows all; the moment that its first click set goes back to where it was. */
  reset: function (view) {
    const none = window.dash_clientside.no_update;
    const last = window.dash_clientside.oomdoctor_timeline.lastClick;
    const recent = last && Date.now() - last.at < 700 && last.item === view.item && last.device === view.device;
    if (view.low === null && !recent) {
      return none;
    }
    return window.dash_clientside.oomdoctor.wish(view, { ...view, low: null, high: null, ...(recent ? { event: last.event } : {}) });
  },

  clicked: function (click, view, drawn) {
    const here = window.dash_clientside.oomdoctor_timeline;
    const point = click && click.points && click.points.find((one) => Array.isArray(one.customdata));
    const again = here.lastClick && Date.now() - here.lastClick.at < 700;
    if (view && !again) {
      here.lastClick = { at: Date.now(), event: view.event, item: view.item, device: view.device };
    }
    const event = point && point.customdata[0];
    if (!Number.isInteger(event) || !view || !drawn || event === view.event) {
      return window.dash_clientside.no_update;
    }
    if (drawn[0] !== view.item || drawn[1] !== view.device) {
      return window.dash_clientside.no_update;
    }
    return window.dash_clientside.oomdoctor.wish(view, { ...view, event: event });
  },

  all: function (clicks, view) {
    const none = window.dash_clientside.no_update;
    return clicks && view ? window.dash_clientside.oomdoctor.wish(view, { ...view, low: null, high: null }) : none;
  },
};

/* The line of the moment moves without the figure being drawn anew, which would take a hundred milliseconds. */
(function () {
  "use strict";
  const MOMENT_SHAPE = 0; // of figures/timeline.py and figures/fragmentation.py
  const GRAPHS = ["timeline-graph", "fragmentation-over"];

  const moveAll = () => GRAPHS.forEach(move);

  function move(id) {
    const graph = document.querySelector(`#${id} .js-plotly-plot`);
    const line = document.getElementById("moment-line");
    const full = graph && graph._fullLayout;
    const shape = full && graph.layout.shapes && graph.layout.shapes[MOMENT_SHAPE];
    if (!line || !shape || !full.xaxis || !full.xaxis.d2p) return;
    const text = full.xaxis.ticksuffix === " s" ? line.dataset.seconds : line.dataset.event;
    const path = graph.querySelector(`.shapelayer path[data-index="${MOMENT_SHAPE}"]`);
    if (!text || !path || shape.x0 === Number(text)) return;
    shape.x0 = shape.x1 = Number(text);
    const drawn = full.shapes && full.shapes[MOMENT_SHAPE];
    if (drawn) drawn.x0 = drawn.x1 = Number(text);
    const at = full.xaxis._offset + full.xaxis.d2p(Number(text));
    path.setAttribute("d", path.getAttribute("d").replace(/([ML])[^,]+,/g, `$1${at},`));
  }

  // What is drawn may be of an earlier moment.
  GRAPHS.forEach((id) =>
    window.dash_clientside.oomdoctor.withGraph(id, (graph) => graph.on("plotly_afterplot", moveAll))
  );

  new MutationObserver(moveAll).observe(document, {
    subtree: true,
    attributes: true,
    attributeFilter: ["data-event", "data-seconds"],
  });
})();
