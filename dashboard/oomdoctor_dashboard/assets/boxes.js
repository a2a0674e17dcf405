/* Graphs whose boxes are painted (paint.js): which box the pointer is on, and which is clicked. */
window.dash_clientside = window.dash_clientside || {};
(function () {
  "use strict";

  const setProps = (id, props) => window.dash_clientside.set_props(id, props);
  const div = (text, style) => ({
    type: "Div", namespace: "dash_html_components", props: { children: text, style: style },
  });
  const TIP = {
    fontSize: 11, color: "#1a202c", width: "max-content", maxWidth: 420, overflowWrap: "anywhere", whiteSpace: "normal",
  };

  /* What becomes of it, by graph. Of the map the server knows what is to be said; a flame graph brings it along. */
  const GRAPHS = {
    "segments-graph": {
      point: (found) => {
        if (found) setProps("segments-tooltip", { bbox: found.bbox });
        setProps("segments-pointed", { data: found && found.box });
      },
      pick: (found) => setProps("segments-picked", { data: { box: found.box, at: Date.now() } }),
      label: (address) => setProps("segments-picked", { data: { alone: address, at: Date.now() } }),
    },
    "live-flame": {
      point: (found, graph) => {
        const lines = found && graph.layout.meta.nodes[found.box].slice(1);
        const said = lines && lines.map((line, i) => div(line, i ? {} : { fontWeight: 600 }));
        const tip = lines && { ...div(said, TIP) };
        if (tip) tip.props.className = "od-tooltip";
        setProps("live-tooltip", lines ? { show: true, bbox: found.bbox, children: tip } : { show: false });
      },
      pick: (found, graph) => setProps("live-picked", { data: { path: graph.layout.meta.nodes[found.box][0], at: Date.now() } }),
    },
  };

  // A box may be narrower than a pixel.
  const SLACK_PX = 3;
  // A pointer that moved further was dragging.
  const CLICK_PX = 4;

  /* The number of the box at a place on the screen, and where its line is; null where there is none. */
  function boxAt(graph, clientX, clientY) {
    const { xaxis, yaxis } = graph._fullLayout || {};
    const boxes = window.dash_clientside.oomdoctor.paintOf(graph);
    if (!xaxis || !yaxis || !boxes) return null;
    const frame = graph.getBoundingClientRect();
    const left = clientX - frame.left - xaxis._offset;
    const top = clientY - frame.top - yaxis._offset;
    if (left < 0 || top < 0 || left > xaxis._length || top > yaxis._length) return null;
    const x = xaxis.p2l(left);
    const y = yaxis.p2l(top);
    const line = Math.round(y);
    if (Math.abs(y - line) > boxes.tall / 2) return null;
    let nearest = xaxis.p2l(left + SLACK_PX) - x;
    let found = null;
    boxes.line.forEach((where, i) => {
      if (where !== line) return;
      const away = Math.max(boxes.low[i] - x, x - boxes.high[i], 0);
      if (away < nearest || (away === 0 && nearest === 0)) {
        nearest = away;
        found = i;
      }
    });
    if (found === null) return null;
    const scrolled = graph.closest(".dash-graph").parentElement.scrollTop;
    const edge = (half) => yaxis._offset + yaxis.l2p(line + (half * boxes.tall) / 2) - scrolled;
    const across = xaxis._offset + left;
    return { box: found, bbox: { x0: across, x1: across, y0: edge(-1), y1: edge(1) } };
  }

  /* What a label at the left is about. */
  function labelAt(graph, clientX, clientY) {
    const { xaxis, yaxis } = graph._fullLayout || {};
    const frame = graph.getBoundingClientRect();
    if (!xaxis || !graph.layout.meta || !graph.layout.meta.labels || clientX > frame.left + xaxis._offset) return null;
    return graph.layout.meta.labels[Math.round(yaxis.p2l(clientY - frame.top - yaxis._offset))] || null;
  }

  let pointed = null; // the last box, what is drawn where it is, and in which graph

  /* What is said stays within the window, whatever is pointed at. */
  function keepInside() {
    if (!pointed) return;
    document.querySelectorAll(".od-tooltip").forEach((one) => {
      const box = one.closest(".hover-content") || one;
      box.style.translate = ""; // not transform, by which Dash centres it
      const at = box.getBoundingClientRect();
      if (!at.width) return;
      const right = Math.max(0, at.right + 8 - window.innerWidth) || Math.min(0, at.left - 8);
      const up = at.bottom > window.innerHeight ? at.height + 40 : 0;
      if (right || up) box.style.translate = `${-right}px ${-up}px`;
    });
  }

  const holderOf = (target) =>
    target && target.closest ? target.closest(Object.keys(GRAPHS).map((id) => "#" + id).join()) : null;
  const graphOf = (target) => {
    const holder = holderOf(target);
    return holder && holder.querySelector(".js-plotly-plot");
  };

  let waits = null;

  function point(event) {
    waits = null;
    const graph = !event.target.closest(".modebar") && graphOf(event.target);
    const found = graph && boxAt(graph, event.clientX, event.clientY);
    const now = found ? { box: found.box, data: graph.data, id: holderOf(event.target).id } : null;
    if (now ? pointed && pointed.box === now.box && pointed.data === now.data : !pointed) return;
    if (pointed && (!now || now.id !== pointed.id)) GRAPHS[pointed.id].point(null);
    pointed = now;
    if (found) GRAPHS[now.id].point(found, graph);
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
      const graph = event.button === 0 && !event.target.closest(".modebar") && graphOf(event.target);
      pressed = graph && { graph: graph, id: holderOf(event.target).id, x: event.clientX, y: event.clientY };
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
      if (found) GRAPHS[from.id].pick(found, from.graph);
      const label = GRAPHS[from.id].label && labelAt(from.graph, from.x, from.y);
      if (label) GRAPHS[from.id].label(label);
    },
    true
  );

  new MutationObserver(keepInside).observe(document, { subtree: true, childList: true, characterData: true });
})();
