window.dash_clientside = window.dash_clientside || {};
(function () {
  "use strict";

  let pointer = null;
  document.addEventListener("mousemove", function (event) {
    pointer = event;
  });

  window.dash_clientside.oomdoctor_segments = {
    /* What is said of a box stands where the pointer is: boxes may be as wide as the page. */
    where: function (hover) {
      const graph = document.getElementById("segments-graph");
      if (!hover || !hover.points || !pointer || !graph) {
        return window.dash_clientside.no_update;
      }
      const box = hover.points[0].bbox;
      const x = pointer.clientX - graph.getBoundingClientRect().left;
      return { x0: x, x1: x, y0: box.y0, y1: box.y1 };
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
