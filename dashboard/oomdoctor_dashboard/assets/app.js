/* The parts of the page that need no server: the address, the moment's way from wanted to shown, uploads. */
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.oomdoctor = Object.assign(window.dash_clientside.oomdoctor || {}, {
  /* What the server made of the address came along with the page. */
  start: function () {
    const { view, at_hand } = JSON.parse(document.querySelector("meta[name=oomdoctor-start]").content);
    return [view, at_hand ? view : window.dash_clientside.no_update];
  },

  /* The first snapshot of a run that is being recorded. */
  came: function (groups, view) {
    const first = groups && groups.length && groups[0].items[0];
    return first && view && !view.item ? { ...view, item: first.value } : window.dash_clientside.no_update;
  },

  /* What a component holds by now, whatever a callback was given. */
  prop: function (id, key) {
    return (window.dash_component_api.getLayout(id) || { props: {} }).props[key];
  },

  /* Do something with a graph as soon as plotly has made it, and again if it is made anew. */
  withGraph: (function () {
    const wanted = [];
    new MutationObserver(() => {
      for (const one of wanted) {
        const graph = document.querySelector(`#${one.id} .js-plotly-plot`);
        if (!graph || !graph.on || graph.on === one.seen) continue;
        one.seen = graph.on;
        one.act(graph);
      }
    }).observe(document, { subtree: true, childList: true });
    return (id, act) => wanted.push({ id: id, act: act, seen: null });
  })(),

  /* The boxes that figures/boxes.py gave a graph to paint. */
  paintOf: (graph) => graph.layout && graph.layout.meta && graph.layout.meta.paint,

  /* The settings of one page, a copy; and the view with others. */
  optionsOf: function (view, page) {
    return { ...((view.options || {})[page] || {}) };
  },

  withOptions: function (view, page, options) {
    return { ...view, options: { ...(view.options || {}), [page]: options } };
  },

  /* Ask for another view: what differs from the one that was looked at goes into the one that is asked for by now.
     Where several things happen at once Dash gives all of them the same view, and what each returned whole
     would undo the others. What was meant for another recording is dropped. */
  wish: function (before, after) {
    const now = window.dash_clientside.oomdoctor.prop("view", "data") || before;
    const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
    const change = {};
    for (const key of Object.keys(after)) {
      if (key !== "options" && !same(after[key], before[key])) change[key] = after[key];
    }
    const isElsewhere = now.item !== before.item || now.device !== before.device;
    if (isElsewhere && !("item" in change || "device" in change)) {
      return window.dash_clientside.no_update;
    }
    const options = { ...(now.options || {}) };
    for (const [page, chosen] of Object.entries(after.options || {})) {
      const had = (before.options || {})[page] || {};
      const mine = { ...(options[page] || {}) };
      for (const key of Object.keys({ ...had, ...chosen })) {
        if (!(key in chosen)) delete mine[key];
        else if (!same(chosen[key], had[key])) mine[key] = chosen[key];
      }
      if (!same(mine, options[page] || {})) options[page] = mine;
    }
    const next = { ...now, ...change, options: options };
    if (!same(next, now)) window.dash_clientside.set_props("view", { data: next });
    return window.dash_clientside.no_update;
  },

  /* The view is in the address, so that a reload or a shared link shows the same. */
  address: function (view, standard) {
    const query = new URLSearchParams();
    for (const key of Object.keys(standard)) {
      const value = view[key];
      if (key !== "options" && value !== null && value !== undefined && value !== standard[key]) {
        query.set(key, value);
      }
    }
    const chosen = Object.entries(view.options || {}).filter(([, one]) => Object.keys(one).length);
    if (chosen.length) {
      query.set("options", JSON.stringify(Object.fromEntries(chosen)));
    }
    const text = query.toString();
    return window.location.pathname + (text ? "?" + text : "");
  },

  /* Another snapshot or device was chosen, or came as an upload. */
  chosen: function (item, device, uploaded, view, subject, ofARecording) {
    const all = window.dash_clientside;
    if (!view) {
      return all.no_update;
    }
    const elsewhere = (changes) => {
      const options = {};
      for (const [page, chosen] of Object.entries(view.options || {})) {
        const kept = Object.entries(chosen).filter(([key]) => !(ofARecording[page] || []).includes(key));
        options[page] = Object.fromEntries(kept);
      }
      const after = { ...view, event: null, low: null, high: null, options: options, ...changes };
      return all.oomdoctor.wish(view, after);
    };
    const isUpload = all.callback_context.triggered.some((one) => one.prop_id === "uploaded.data");
    if (isUpload) {
      return uploaded && uploaded.key ? elsewhere({ item: uploaded.key, device: null }) : all.no_update;
    }
    if (!item) {
      return all.no_update;
    }
    const number = device === null || device === undefined ? null : Number(device);
    const isSubject = subject && item === subject.item;
    if (isSubject && number === subject.device && view.item === item) {
      return all.no_update; // the boxes were set to what is shown
    }
    if (item !== view.item) {
      return elsewhere({ item: item, device: null });
    }
    if (number === null && !(isSubject && subject.device === view.device)) {
      return elsewhere({ device: null }); // it could not be shown
    }
    return number === null || number === view.device ? all.no_update : elsewhere({ device: number });
  },

  /* Settings were chosen on a page. Dash also calls this when the page is mounted, of all its boxes at once,
     and nobody has chosen anything then; and what was typed may come when another page is open. */
  settle: function (...args) {
    const all = window.dash_clientside;
    const [view, { page, defaults, numbers }] = args.slice(-2);
    const names = Object.keys(defaults);
    const triggered = all.callback_context.triggered.map((one) => one.prop_id.split(".")[0]);
    if (!view || !view.item || triggered.length === names.length) {
      return all.no_update;
    }
    const mine = all.oomdoctor.optionsOf(view, page);
    const before = JSON.stringify(mine);
    names.forEach((name, i) => {
      // A box that was left alone may not yet show what the view says.
      if (!triggered.includes(page + "-" + name)) return;
      let value = args[i];
      if (numbers.includes(name)) {
        value = /^\d+$/.test(value) ? Number(value) : null; // a shared address asked for what is not here
      }
      if (value === mine[name]) return;
      delete mine[name];
      if ((value || value === 0) && value !== defaults[name]) mine[name] = value;
    });
    return JSON.stringify(mine) === before
      ? all.no_update
      : all.oomdoctor.wish(view, all.oomdoctor.withOptions(view, page, mine));
  },

  /* The view, where it differs in more than the moment from the one before, as far as its page goes. */
  settled: function (shown, before) {
    const key = (one) => JSON.stringify([one.item, one.device, one.tab, (one.options || {})[one.tab] || {}]);
    return !shown || (before && key(before) === key(shown)) ? window.dash_clientside.no_update : shown;
  },

  /* A tab or the colours were chosen. */
  choose: function (tab, dark, view) {
    const theme = dark ? "dark" : "light";
    if (!view || (view.tab === tab && view.theme === theme)) {
      return window.dash_clientside.no_update;
    }
    return window.dash_clientside.oomdoctor.wish(view, { ...view, tab: tab, theme: theme });
  },

  /* Tables take their colours from the page. */
  colours: function (scheme) {
    document.body.dataset.agThemeMode = scheme;
    return "od-" + scheme;
  },

  /* From what could not be read to what was open before, unless something else is wanted by now. */
  back: function (failed, view, shown) {
    return failed && shown && view && view.item === failed ? shown : window.dash_clientside.no_update;
  },

  /* The view with the timeline's stretch taken along, where the moment has left it; else null. */
  withMoment: function (view, before, events) {
    const { event, low, high } = view;
    const isSame = ["event", "low", "high"].map((key) => view[key] === before[key]);
    if (isSame[0] || !isSame[1] || !isSame[2] || low === null) return null;
    const at = event === null ? events : event;
    if (low <= at && at <= high) return null;
    const first = Math.max(0, Math.min(at - Math.floor((high - low) / 2), events - (high - low)));
    return { ...view, low: first, high: first + high - low };
  },

  /* All that follows from a view in one go, for each callback costs the browser some twenty milliseconds. Where
     the recording is at hand, the view is shown: it goes on to what the header speaks of, to what is drawn over
     the timeline's stretch and to the page that is open; otherwise the server is asked to read it. */
  follow: function (view, come, mounted, plays, speed, ...now) {
    const [shown, subject, timeline, over, said, pages, standard, info, stopped, event, tab, dark, mode, axis] = now;
    if (!view) {
      return;
    }
    const all = window.dash_clientside;
    const triggered = all.callback_context.triggered.map((one) => one.prop_id);
    const set = (id, props) => all.set_props(id, props);
    const isOf = (one, other) => one && other && one.item === other.item && one.device === other.device;

    const along = isOf(view, shown) && isOf(view, info) && all.oomdoctor.withMoment(view, shown, info.events);
    if (along) {
      set("view", { data: along });
      return;
    }
    let next = triggered.includes("come.data") && come ? come : shown;
    if (view.item && isOf(view, next)) {
      next = view;
    } else if (triggered.includes("view.data")) {
      set("wanted", { data: { item: view.item, device: view.device, at: Date.now() } });
    }
    const moves = next && JSON.stringify(next) !== JSON.stringify(shown);
    if (next && (moves || triggered.includes("mounted.data"))) {
      const opened = (page) => next.tab === page && mounted.includes(page);
      const differs = (one, page) => !all.oomdoctor_timeline.alike(next, one, page);
      pages.filter(opened).forEach((page) => set(page + "-shown", { data: next }));
      if (moves) set("shown", { data: next });
      const isSaid = said && ["item", "device", "event"].every((key) => said[key] === next[key]);
      if (!isSaid) set("moment-shown", { data: next });
      if (differs(timeline, "timeline")) set("timeline-shown", { data: next });
      if (opened("fragmentation") && differs(over, "fragmentation")) set("fragmentation-over-shown", { data: next });
      if (!isOf(next, subject)) set("subject", { data: { item: next.item, device: next.device } });
    }

    const path = all.oomdoctor.address(view, standard);
    if (path !== window.location.pathname + window.location.search) {
      window.history.replaceState(window.history.state, "", path);
    }
    if (view.tab !== tab) set("tabs", { value: view.tab });
    if ((view.theme === "dark") !== Boolean(dark)) set("theme", { checked: view.theme === "dark" });
    if (document.body.dataset.agThemeMode !== view.theme) set("mantine", { forceColorScheme: view.theme });
    all.oomdoctor_timeline.controls(view, mode, axis);
    all.oomdoctor_moment.number(view, info, event);
    all.oomdoctor_moment.play(plays, speed, view, stopped, info);
  },
});

(function () {
  "use strict";

  async function send(files) {
    // What is said of earlier ones is old.
    window.dash_clientside.set_props("failed", { data: null });
    window.dash_clientside.set_props("problem", { children: null });
    for (const file of files) {
      let answer;
      const limit = Number(document.getElementById("page").dataset.uploadLimit);
      try {
        if (file.size > limit) {
          throw new Error("TOO LARGE");
        }
        const several = files.length > 1 ? "&several=1" : "";
        const response = await fetch("/_upload?name=" + encodeURIComponent(file.name) + several, {
          method: "POST",
          headers: { "X-Oomdoctor-Upload": "1", "Content-Type": "application/octet-stream" },
          body: file,
        });
        answer = await response.json();
      } catch (error) {
        const tooLarge = error.message === "TOO LARGE" && document.getElementById("page").dataset.tooLarge;
        answer = { error: tooLarge || "the file could not be sent: " + error.message };
      }
      if (answer.error) {
        const told = { action: "show", title: file.name, message: answer.error, color: "red", autoClose: 15000 };
        window.dash_clientside.set_props("messages", { sendNotifications: [told] });
      } else {
        window.dash_clientside.set_props("uploaded", { data: { key: answer.key, at: Date.now() } });
      }
    }
  }

  const input = document.createElement("input");
  input.type = "file";
  input.id = "upload-file";
  input.multiple = true;
  input.style.display = "none";
  input.addEventListener("change", function () {
    send(Array.from(input.files));
    input.value = "";
  });
  document.addEventListener("DOMContentLoaded", function () {
    document.body.appendChild(input);
  });
  document.addEventListener("click", function (event) {
    if (event.target.closest && event.target.closest("#upload-button")) {
      input.click();
    }
  });
  document.addEventListener("dragover", function (event) {
    if (event.dataTransfer && Array.from(event.dataTransfer.types).includes("Files")) {
      event.preventDefault();
    }
  });
  document.addEventListener("drop", function (event) {
    if (event.dataTransfer && event.dataTransfer.files.length) {
      event.preventDefault();
      send(Array.from(event.dataTransfer.files));
    }
  });
})();

/* Words of help close at a click beside them, and with Escape, and stay within the window. */
(function () {
  document.addEventListener(
    "toggle",
    (event) => {
      const box = event.target.matches("details.od-help[open]") && event.target.querySelector(":scope > div");
      if (!box) return;
      box.style.transform = "";
      const at = box.getBoundingClientRect();
      const right = Math.min(0, at.left - 8) || Math.max(0, at.right + 8 - document.documentElement.clientWidth);
      if (right) box.style.transform = `translateX(${-right}px)`;
    },
    true
  );

  const close = (except) =>
    document.querySelectorAll("details.od-help[open]").forEach((one) => {
      if (!except || !one.contains(except)) {
        one.open = false;
      }
    });
  document.addEventListener("click", (event) => close(event.target));
  document.addEventListener("keydown", (event) => event.key === "Escape" && close(null));
})();
