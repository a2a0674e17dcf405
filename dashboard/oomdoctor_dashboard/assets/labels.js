/* Labels of the flame graph (figures/live.py). plotly makes each text anew at each drawing, with several elements and
   styles: as long as all else that it draws. Here they are kept, and change in place; for a picture to keep, which
   plotly draws from the figure alone, they become a trace of it. */
(function () {
  "use strict";

  const FLAME = "live-flame";
  const SVG = "http://www.w3.org/2000/svg";
  // From the edge of its box, and between text and size.
  const INDENT_PX = 4;
  const GAP_PX = 7;

  function made(name, holder) {
    const element = document.createElementNS(SVG, name);
    holder.append(element);
    return element;
  }

  function blank(holder) {
    const text = made("text", holder);
    const parts = [made("tspan", text), made("tspan", text)];
    parts[1].setAttribute("dx", GAP_PX);
    return { text: text, parts: parts, said: ["", ""], at: ["", ""] };
  }

  function write(graph) {
    const full = graph._fullLayout;
    const frame = graph.querySelector(".svg-container");
    if (!frame || !full || !full.xaxis) return;
    let over = graph.labelled;
    if (!over || over.svg.parentNode !== frame) {
      over = graph.labelled = { svg: made("svg", frame), labels: [] };
      over.svg.setAttribute("class", "od-labels");
      over.svg.setAttribute("font-family", full.font.family);
    }
    const wanted = (graph.layout.meta && graph.layout.meta.labels) || [];
    while (over.labels.length < wanted.length) over.labels.push(blank(over.svg));
    over.labels.forEach((label, i) => {
      const [low, level, text, size, ink] = wanted[i] || [0, 0, "", "", ""];
      [text, size].forEach((word, k) => {
        if (label.said[k] !== word) label.parts[k].textContent = label.said[k] = word;
      });
      if (!text) return;
      const at = [full.xaxis._offset + full.xaxis.l2p(low) + INDENT_PX, full.yaxis._offset + full.yaxis.l2p(level)];
      ["x", "y"].forEach((axis, k) => {
        const where = at[k].toFixed(1);
        if (label.at[k] !== where) label.text.setAttribute(axis, (label.at[k] = where));
      });
      if (label.ink !== ink) label.text.setAttribute("fill", (label.ink = ink));
    });
  }

  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

  function traceOf({ layout, _fullLayout }) {
    const { labels } = layout.meta;
    const indent = INDENT_PX * Math.abs(_fullLayout.xaxis.p2l(1) - _fullLayout.xaxis.p2l(0));
    return {
      type: "scatter", mode: "text", textposition: "middle right", hoverinfo: "skip", showlegend: false,
      x: labels.map((one) => one[0] + indent),
      y: labels.map((one) => one[1]),
      text: labels.map(([, , text, size]) => escaped(text) + (size && `  <b>${size}</b>`)),
      textfont: { size: 12, color: labels.map((one) => one[4]) },
    };
  }

  document.addEventListener(
    "click",
    function (event) {
      const camera = event.target.closest && event.target.closest(`#${FLAME} .modebar-btn`);
      const graph = camera && camera.closest(".js-plotly-plot");
      if (!graph || !graph.layout.meta) return;
      event.stopPropagation();
      const { width, height } = graph._fullLayout;
      const figure = { data: [...graph.data, traceOf(graph)], layout: { ...graph.layout, width, height } };
      const options = graph._context.toImageButtonOptions;
      window.Plotly.downloadImage(figure, { format: "png", width: width, height: height, ...options });
    },
    true
  );

  new MutationObserver(function () {
    const graph = document.querySelector(`#${FLAME} .js-plotly-plot`);
    if (graph && graph.on && graph.writes !== graph.on) {
      graph.writes = graph.on;
      graph.on("plotly_afterplot", () => write(graph));
      write(graph);
    }
  }).observe(document, { subtree: true, childList: true });
})();
