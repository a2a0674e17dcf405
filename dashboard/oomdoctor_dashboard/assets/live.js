/* The table of live blocks asks for its rows, a page at a time; here it is told when to ask again. */
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.oomdoctor_live = {
  refresh: function (shown, before) {
    if (!shown) {
      return window.dash_clientside.no_update;
    }
    const { zoom, ...wanted } = (shown.options && shown.options.live) || {}; // of the flame graph alone
    const chosen = JSON.stringify([shown.item, shown.device, wanted]);
    window.dash_ag_grid.getApiAsync("live-table").then(function (grid) {
      // Rows change in place, which takes a fraction of making them anew.
      if (chosen === before || Object.keys(grid.getCacheBlockState()).length <= 1) {
        grid.refreshInfiniteCache();
      } else {
        grid.purgeInfiniteCache();
      }
      if (chosen !== before && grid.getDisplayedRowCount()) grid.ensureIndexVisible(0, "top");
    });
    return chosen;
  },

  /* The flame graph was zoomed to a box; none: to all. */
  zoom: function (picked, view) {
    if (!picked || !view || !view.item || view.tab !== "live") {
      return window.dash_clientside.no_update;
    }
    const here = window.dash_clientside.oomdoctor;
    const mine = here.optionsOf(view, "live");
    delete mine.zoom;
    if (picked.path) mine.zoom = picked.path;
    return here.wish(view, here.withOptions(view, "live", mine));
  },
};

/* Enter does not wait for more to be typed. */
document.addEventListener("keydown", function (event) {
  const box = event.target;
  if (event.key === "Enter" && ["live-text", "live-size", "live-age"].includes(box.id)) {
    window.dash_clientside.set_props(box.id, { value: box.value });
  }
});
