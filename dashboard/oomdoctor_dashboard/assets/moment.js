/* Stepping needs no server: the view is here, and how many events there are. Keys click the same buttons. */
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

  window.dash_clientside.oomdoctor_moment = {
    step: function (...args) {
      const [view, info, by, speed, drawn] = args.slice(-5);
      const value = args[args.length - 6];
      const triggered = (window.dash_clientside.callback_context.triggered_id || "").replace("moment-", "");
      if (!known(view, info)) {
        return [same(), same()];
      }
      const now = eventOf(view, info);
      const go = (to) => {
        const at = Math.max(0, Math.min(to, info.events));
        return [at === now ? same() : { ...view, event: at }, same()];
      };
      const many = { previous: -1, next: 1, back: -100, on: 100 };
      if (triggered === "event") {
        return typeof value === "number" ? go(Math.round(value)) : [same(), same()];
      }
      if (triggered === "first") return go(0);
      if (triggered === "last") return go(info.events);
      if (triggered in info.peaks) return go(info.peaks[triggered]);
      if (triggered === "oom") return [same(), { kind: "next oom", at: Date.now() }];
      let steps = many[triggered];
      if (triggered === "tick") {
        if (drawn !== now) {
          return [same(), same()]; // the last step is still on its way
        }
        steps = info.speeds[speed][1];
      }
      if (!steps) return [same(), same()];
      return by === "event" ? go(now + steps) : [same(), { kind: by, steps: steps, at: Date.now() }];
    },

    number: function (view, info, value) {
      if (!known(view, info)) return same();
      const now = eventOf(view, info);
      return now === value ? same() : now;
    },

    play: function (clicks, speed, view, stopped, info) {
      const triggered = window.dash_clientside.callback_context.triggered_id;
      let off = stopped;
      if (triggered === "moment-play") {
        off = !stopped;
      } else if (triggered !== "moment-speed") {
        if (stopped) return [same(), same(), same()];
        off = !known(view, info) || eventOf(view, info) >= info.events;
        if (!off) return [same(), same(), same()];
      }
      return [off, info ? info.speeds[speed][0] : same(), off ? "Play" : "Pause"];
    },
  };

  const KEYS = { ArrowLeft: "previous", ArrowRight: "next", Home: "first", End: "last", " ": "play" };
  // Where these keys have a meaning of their own.
  const TAKEN =
    "input, textarea, select, [contenteditable=true], .ag-root, [role=tab], [role=slider], [role=listbox]," +
    " [role=option], [role=menu], [role=dialog]";

  document.addEventListener("keydown", function (event) {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
    if (target.closest && target.closest(TAKEN)) return;
    if (event.key === " " && target.closest && target.closest("button, a, summary")) return;
    let name = KEYS[event.key];
    if (event.shiftKey) name = { previous: "back", next: "on" }[name] || name;
    const button = document.getElementById("moment-" + name);
    if (button && !button.disabled && button.offsetParent !== null) {
      event.preventDefault();
      button.click();
    }
  });
})();
