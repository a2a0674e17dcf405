/* Stepping needs no server: the view is here, and how many events there are. Keys click the same buttons. They are
   no components of Dash, which for each callback looks at the whole page some ten times. */
window.dash_clientside = window.dash_clientside || {};
(function () {
  "use strict";

  const same = () => window.dash_clientside.no_update;

  function eventOf(view, info) {
    return view.event === null || view.event === undefined ? info.events : Math.min(view.event, info.events);
  }

  function known(view, info) {
    return view && info && view.item === info.item && view.device === info.device;
  }

  const MANY = { back: -100, previous: -1, next: 1, on: 100 };
  // Where the page is busy several clicks come as one call: counts tell what was clicked.
  const seen = {};
  // The number that the box was given last: one that is left as it is was not typed.
  let written = null;
  let paused = null;

  // Whether what is shown is still being drawn: Dash marks what it waits for an answer for.
  const drawing = () => document.querySelector("#views [data-dash-is-loading='true']") !== null;

  function clicksOf(name, count) {
    const before = seen[name] || 0;
    seen[name] = count || 0;
    return Math.max(seen[name] - before, 0);
  }

  function go(view, info, to) {
    const at = Math.max(0, Math.min(to, info.events));
    return at === eventOf(view, info) ? same() : window.dash_clientside.oomdoctor.wish(view, { ...view, event: at });
  }

  function ask(what) {
    window.dash_clientside.set_props("moment-ask", { data: { ...what, at: Date.now() } });
    return same();
  }

  function step(view, info, by, steps) {
    return by === "event" ? go(view, info, eventOf(view, info) + steps) : ask({ kind: by, steps: steps });
  }

  function clicked(name) {
    const { prop } = window.dash_clientside.oomdoctor;
    const view = prop("view", "data");
    const info = prop("moment-info", "data");
    if (!known(view, info)) return;
    if (name in MANY) step(view, info, prop("moment-by", "value"), MANY[name]);
    else if (name === "first") go(view, info, 0);
    else if (name === "last") go(view, info, info.events);
    else if (name in info.peaks) go(view, info, info.peaks[name]);
    else if (name === "oom") ask({ kind: "next oom" });
  }

  document.addEventListener("click", function (event) {
    const button = event.target.closest && event.target.closest("#moment-bar .od-tools button");
    if (button) clicked(button.id.replace("moment-", ""));
  });

  window.dash_clientside.oomdoctor_moment = {
    step: function (_ticks, _submitted, _left, view, info, by, speed, drawn, value) {
      const triggered = window.dash_clientside.callback_context.triggered.map((one) => one.prop_id);
      if (!known(view, info)) {
        return same();
      }
      const now = eventOf(view, info);
      const typed = triggered.some((one) => one === "moment-event.n_submit" || one === "moment-event.n_blur");
      if (typed && typeof value !== "number") {
        // It was emptied. Later, for the box learns of its own value with a timer, and takes no other before.
        setTimeout(() => window.dash_clientside.set_props("moment-event", { value: now }));
      }
      if (typed && typeof value === "number" && value !== written) {
        written = value;
        return go(view, info, Math.round(value));
      }
      // A step of the player waits for the one before to be drawn.
      const plays = triggered.includes("moment-tick.n_intervals") && drawn === now && !drawing();
      return plays ? step(view, info, by, info.speeds[speed][1]) : same();
    },

    number: function (view, info, value) {
      // Of another recording or device: the server writes its number, once it has read it.
      written = known(view, info) ? eventOf(view, info) : null;
      if (written === null) return;
      if (written !== value) window.dash_clientside.set_props("moment-event", { value: written });
    },

    play: function (clicks, speed, view, stopped, info) {
      const set = window.dash_clientside.set_props;
      const ends = !known(view, info) || eventOf(view, info) >= info.events;
      const toggled = clicksOf("play", clicks) % 2 === 1;
      const off = ends || (toggled ? !stopped : stopped);
      const pause = info ? info.speeds[speed][0] : null;
      if (pause !== null && pause !== paused) {
        paused = pause;
        set("moment-tick", { interval: pause });
      }
      if (off !== stopped) {
        set("moment-tick", { disabled: off });
        set("moment-play", { children: off ? "Play" : "Pause" });
      }
    },
  };

  const KEYS = { ArrowLeft: "previous", ArrowRight: "next", Home: "first", End: "last", " ": "play" };
  // Where these keys have a meaning of their own.
  const TAKEN =
    "input, textarea, select, [contenteditable=true], .ag-root, [role=slider], [role=listbox]," +
    " [role=option], [role=menu], [role=dialog]";

  function leave(what) {
    const now = document.activeElement;
    if (now && now.matches(what)) now.blur();
  }

  // What was chosen with the mouse keeps no focus, or the keys would go on to move it and not step; what was reached
  // by the Tab key does.
  document.addEventListener("click", function (event) {
    if (event.detail === 0) return;
    // The switch that a label belongs to has the focus after the click.
    setTimeout(leave, 0, "[role=tab], input[type=radio], input[type=checkbox]");
    if (event.target.closest && event.target.closest("[role=option]")) leave("input");
  });

  document.addEventListener("keydown", function (event) {
    const target = event.target;
    if (event.key === "Enter") setTimeout(leave, 0, "#moment-event"); // the event was given: on from there
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
    if (target.closest && target.closest(TAKEN)) return;
    if (event.key === " " && target.closest && target.closest("button, a, summary")) return;
    let name = KEYS[event.key];
    if (event.shiftKey) name = { previous: "back", next: "on" }[name] || name;
    const button = document.getElementById("moment-" + name);
    // A key that is held goes as fast as the page can show it: an answer that is overtaken is never drawn.
    if (event.repeat && drawing()) {
      event.preventDefault();
      return;
    }
    if (button && !button.disabled && button.offsetParent !== null) {
      event.preventDefault();
      button.click();
    }
  });
})();
