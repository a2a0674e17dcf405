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
      const here = window.dash_clientside.oomdoctor;
      const mine = here.optionsOf(view, "segments");
      if (relayout.dragmode) {
        // It stays when something is drawn anew.
        delete mine.drag;
        if (relayout.dragmode === "pan") mine.drag = "pan";
        return here.wish(view, here.withOptions(view, "segments", mine));
      }
      const ends = relayout["xaxis.range"] || [relayout["xaxis.range[0]"], relayout["xaxis.range[1]"]];
      const all = relayout["xaxis.autorange"];
      if (!all && !ends.every(Number.isFinite)) return none;
      const whole = meta.line_bytes;
      const [low, high] = all ? [0, whole] : [Math.max(0, Math.round(ends[0])), Math.min(Math.round(ends[1]), whole)];
      const before = mine.zoom;
      delete mine.zoom;
      if (low > 0 || high < whole * 0.99) mine.zoom = [meta.row_bytes, low, high].join(":");
      // Nothing is drawn anew, so what a double click or the button "-" made of it has to be left again.
      const isBeyond = !all && (ends[0] < meta.whole[0] - 1 || ends[1] > meta.whole[1] + 1);
      if (!mine.zoom && !before && (all || isBeyond)) window.Plotly.relayout(graph, { "xaxis.range": meta.whole });
      return mine.zoom === before ? none : here.wish(view, here.withOptions(view, "segments", mine));
    },
  };

  /* The panel's buttons: to another moment, to what lies elsewhere, to one segment alone. */
  document.addEventListener("click", function (event) {
    const button = event.target.closest && event.target.closest("#segments-panel button");
    const here = window.dash_clientside.oomdoctor;
    const view = button && here.prop("view", "data");
    if (!view) return;
    if (button.dataset.event) {
      here.wish(view, { ...view, event: Number(button.dataset.event) });
      return;
    }
    const mine = here.optionsOf(view, "segments");
    const name = "block" in button.dataset ? "block" : "alone";
    delete mine[name];
    if (button.dataset[name]) mine[name] = button.dataset[name];
    here.wish(view, here.withOptions(view, "segments", mine));
  });
})();
