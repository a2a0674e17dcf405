/* Paints the boxes of the map and of the flame graph (figures/boxes.py) on a canvas under what plotly draws. A picture
   to keep, which plotly draws from the figure alone, gets the same as an image. */
(function () {
  "use strict";

  const { paintOf, withGraph } = window.dash_clientside.oomdoctor;
  const GRAPHS = ["segments-graph", "live-flame"];
  const PLOTS = GRAPHS.map((id) => `#${id} .js-plotly-plot`).join();
  // A narrower box has no room for the gap by which neighbours are told apart, nor for text.
  const ROOMY_PX = 4;
  const GAP_PX = 1;
  const FONT_PX = 12;
  // Of text, from the edge of its box, and to what goes on in bold.
  const INDENT_PX = 4;
  const SPACE_PX = 7;
  // Of a line's height, from a box to the rectangle around its segment.
  const AROUND = 0.06;
  // Fewer letters say nothing.
  const LEAST_LETTERS = 3;

  const widths = new Map();
  function widthOf(context, text) {
    const key = context.font + text;
    if (!widths.has(key)) {
      if (widths.size > 20000) widths.clear();
      widths.set(key, context.measureText(text).width);
    }
    return widths.get(key);
  }

  /* As much of a text as there is room for. */
  function cut(context, text, room) {
    if (widthOf(context, text) <= room) return text;
    let letters = Math.min(text.length, Math.floor((text.length * room) / widthOf(context, text)));
    while (letters >= LEAST_LETTERS && widthOf(context, text.slice(0, letters) + "…") > room) letters--;
    return letters >= LEAST_LETTERS ? text.slice(0, letters) + "…" : "";
  }

  function write(context, [text, more], left, middle, room, family) {
    context.font = `bold ${FONT_PX}px ${family}`;
    const wide = more ? widthOf(context, more) + SPACE_PX : 0;
    context.font = `${FONT_PX}px ${family}`;
    const own = widthOf(context, text);
    context.fillText(cut(context, text, room), left, middle);
    if (!more || own + wide > room) return;
    context.font = `bold ${FONT_PX}px ${family}`;
    context.fillText(more, left + own + SPACE_PX, middle);
  }

  function paint(canvas, { xaxis, yaxis, font }, what, scale) {
    const size = [Math.round(xaxis._length * scale), Math.round(yaxis._length * scale)];
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, xaxis._length, yaxis._length);
    const pitch = Math.abs(yaxis.l2p(1) - yaxis.l2p(0));
    const half = (what.tall / 2) * pitch;
    const sharp = (px) => Math.round(px * scale) / scale;
    context.textBaseline = "middle";
    what.line.forEach((line, i) => {
      const low = xaxis.l2p(what.low[i]);
      const high = xaxis.l2p(what.high[i]);
      if (high < 0 || low > xaxis._length) return;
      const middle = yaxis.l2p(line);
      const top = sharp(middle - half);
      const [fill, ink] = what.looks[what.look[i]];
      context.fillStyle = fill;
      const isRoomy = high - low > ROOMY_PX;
      const [left, right] = isRoomy ? [sharp(low), sharp(high) - GAP_PX] : [low, high];
      context.fillRect(left, top, right - left, sharp(middle + half) - top);
      if (!isRoomy || !what.texts.length) return;
      context.fillStyle = ink;
      write(context, what.texts[i], left + INDENT_PX, middle, right - left - 2 * INDENT_PX, font.family);
    });
    context.strokeStyle = what.outline;
    context.lineWidth = 1;
    const around = half + AROUND * pitch;
    what.outlines.forEach(([line, low, high]) => {
      const left = xaxis.l2p(low);
      const middle = yaxis.l2p(line);
      context.strokeRect(left, middle - around, xaxis.l2p(high) - left, 2 * around);
    });
  }

  function draw(graph) {
    const full = graph._fullLayout;
    const frame = graph.querySelector(".svg-container");
    if (!frame || !full || !full.xaxis || !full.xaxis.l2p) return;
    let canvas = graph.painted;
    if (!canvas || canvas.parentNode !== frame) {
      canvas = graph.painted = document.createElement("canvas");
      canvas.style.position = "absolute";
      frame.prepend(canvas);
    }
    const what = paintOf(graph);
    canvas.hidden = !what;
    if (!what) return;
    const { xaxis, yaxis } = full;
    const place = { left: xaxis._offset, top: yaxis._offset, width: xaxis._length, height: yaxis._length };
    for (const [name, px] of Object.entries(place)) canvas.style[name] = `${px}px`;
    paint(canvas, full, what, window.devicePixelRatio || 1);
  }

  document.addEventListener(
    "click",
    function (event) {
      const camera = event.target.closest && event.target.closest(".modebar-btn[data-title*='PNG']");
      const graph = camera && camera.closest(PLOTS);
      const what = graph && paintOf(graph);
      if (!what) return;
      event.stopPropagation();
      const full = graph._fullLayout;
      const options = { scale: 1, ...graph._context.toImageButtonOptions };
      const canvas = document.createElement("canvas");
      paint(canvas, full, what, options.scale);
      const image = {
        source: canvas.toDataURL(), xref: "paper", yref: "paper", x: 0, y: 1, sizex: 1, sizey: 1,
        sizing: "stretch", layer: "below",
      };
      const { width, height } = full;
      const layout = { ...graph.layout, width, height, paper_bgcolor: what.paper, images: [image] };
      window.Plotly.downloadImage({ data: graph.data, layout: layout }, { format: "png", width, height, ...options });
    },
    true
  );

  /* Sharp also on the other screen that the window was moved to. */
  (function watchScale() {
    const change = () => {
      document.querySelectorAll(PLOTS).forEach(draw);
      watchScale();
    };
    window.matchMedia(`(resolution: ${window.devicePixelRatio}dppx)`).addEventListener("change", change, { once: true });
  })();

  GRAPHS.forEach((id) =>
    withGraph(id, (graph) => {
      graph.on("plotly_afterplot", () => draw(graph));
      graph.on("plotly_relayouting", () => draw(graph));
      draw(graph);
    })
  );
})();
