/* A drag on a graph is drawn once.

   Dash writes the ranges that were dragged to into the figure that it holds for the graph, and for that draws all of it
   anew, some 40 ms on the timeline (plotly_relayout in fragments/Graph.react.js of dcc, Dash 4.4.1). Where the figure
   has them already it leaves it as it is. So they are put there before it looks, which takes plotly's private emitter:
   without it the graph is drawn twice, as with Dash alone. */
(function () {
  "use strict";
  const here = window.dash_clientside.oomdoctor;

  function keep(id, graph) {
    if (!graph._ev || !graph._ev.prependListener) return;
    graph._ev.prependListener("plotly_relayout", (change) => {
      const figure = here.prop(id, "figure");
      if (!change || !figure || !figure.layout) return;
      for (const key of Object.keys(change)) {
        const part = key.split(/[.[]/)[0];
        if (part in graph.layout) figure.layout[part] = structuredClone(graph.layout[part]);
      }
    });
  }

  for (const id of ["timeline-graph", "segments-graph", "fragmentation-over", "whatif-graph", "compare-graph"]) {
    here.withGraph(id, (graph) => keep(id, graph));
  }
})();
