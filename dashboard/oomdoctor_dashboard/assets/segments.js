/* The buttons of the panel beside the map of segments. */
window.dash_clientside = window.dash_clientside || {};
(function () {
  "use strict";

  window.dash_clientside.oomdoctor_segments = {
    /* What is seen of the lines is a part of the view, and stays while one steps. */
    zoomed: function (relayout, view) {
      const none = window.dash_clientside.no_update;
      const graph = document.querySelector("#segments-graph .js-plotly-plot");
      const meta = graph && graph.layout && graph.layout.meta;
      if (!relayout || !view || !meta || view.tab !== "segments") return none;
      const ends = relayout["xaxis.range"] || [relayout["xaxis.range[0]"], relayout["xaxis.range[1]"]];
      const all = relayout["xaxis.autorange"];
      if (!all && !ends.every(Number.isFinite)) return none;
      const whole = meta.row_bytes * 1.02;
      const [low, high] = all ? [0, whole] : [Math.max(0, Math.round(ends[0])), Math.round(ends[1])];
      const here = window.dash_clientside.oomdoctor;
      const mine = here.optionsOf(view, "segments");
      const before = mine.zoom;
      delete mine.zoom;
      if (low > 0 || high < whole * 0.99) mine.zoom = [meta.row_bytes, low, high].join(":");
      return mine.zoom === before ? none : here.wish(view, here.withOptions(view, "segments", mine));
    },

    /* Of a button in the panel. Buttons that appear call this as well, and nobody has clicked those. */
    follow: function (...args) {
      const view = args[args.length - 1];
      const context = window.dash_clientside.callback_context;
      const asked = context.triggered_id;
      if (!view || !asked || !context.triggered.some((one) => one.value)) {
        return window.dash_clientside.no_update;
      }
      if (asked.type === "segments-go") {
        return window.dash_clientside.oomdoctor.wish(view, { ...view, event: asked.event });
      }
      const here = window.dash_clientside.oomdoctor;
      const mine = here.optionsOf(view, "segments");
      const name = asked.type === "segments-pick" ? "block" : "alone";
      if (asked.address) {
        mine[name] = asked.address;
      } else {
        delete mine[name];
      }
      return here.wish(view, here.withOptions(view, "segments", mine));
    },
  };
})();
