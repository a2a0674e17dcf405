/* The buttons of the panel beside the map of segments. */
window.dash_clientside = window.dash_clientside || {};
(function () {
  "use strict";

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
