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
  };
})();
