/* The table of live blocks asks for its rows, a page at a time; here it is told when to ask again. */
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.oomdoctor = Object.assign(window.dash_clientside.oomdoctor || {}, {
  refreshLive: function (shown, before) {
    if (!shown) {
      return window.dash_clientside.no_update;
    }
    const { zoom, ...wanted } = (shown.options && shown.options.live) || {}; // of the flame graph alone
    const chosen = JSON.stringify([shown.item, shown.device, wanted]);
    window.dash_ag_grid.getApiAsync("live-table").then(function (grid) {
      if (chosen === before) {
        grid.refreshInfiniteCache(); /* the moment moved: rows change in place */
      } else {
        grid.purgeInfiniteCache();
        grid.ensureIndexVisible && grid.getDisplayedRowCount() && grid.ensureIndexVisible(0);
      }
    });
    return chosen;
  },
});
