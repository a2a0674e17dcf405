/* The parts of the page that need no server: the address, the moment's way from wanted to shown, uploads. */
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.oomdoctor = Object.assign(window.dash_clientside.oomdoctor || {}, {
  /* The view is in the address, so that a reload or a shared link shows the same; tabs and colours follow it. */
  followView: function (view, standard, tab, dark) {
    const none = window.dash_clientside.no_update;
    if (!view) {
      return [none, none, none, none];
    }
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
    const path = window.location.pathname + (text ? "?" + text : "");
    if (path !== window.location.pathname + window.location.search) {
      window.history.replaceState(window.history.state, "", path);
    }
    const same = view.tab === tab;
    const alike = (view.theme === "dark") === Boolean(dark);
    return [
      window.location.origin + path,
      same ? none : view.tab,
      alike ? none : view.theme === "dark",
      document.body.dataset.agThemeMode === view.theme ? none : view.theme,
    ];
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
      return { ...view, event: null, low: null, high: null, options: options, ...changes };
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

  /* A tab or the colours were chosen. */
  choose: function (tab, dark, view) {
    const theme = dark ? "dark" : "light";
    if (!view || (view.tab === tab && view.theme === theme)) {
      return window.dash_clientside.no_update;
    }
    return Object.assign({}, view, { tab: tab, theme: theme });
  },

  /* Tables take their colours from the page. */
  colours: function (scheme) {
    document.body.dataset.agThemeMode = scheme;
    return "od-" + scheme;
  },

  /* Where the recording is at hand the view goes on to the pages; otherwise the server is asked to read it. */
  route: function (view, shown) {
    const none = window.dash_clientside.no_update;
    if (!view) {
      return [none, none];
    }
    if (shown && view.item && view.item === shown.item && view.device === shown.device) {
      return [JSON.stringify(view) === JSON.stringify(shown) ? none : view, none];
    }
    return [none, { item: view.item, device: view.device, at: Date.now() }];
  },

  /* From what could not be read to what was open before, unless something else is wanted by now. */
  back: function (failed, view, shown) {
    return failed && shown && view && view.item === failed ? shown : window.dash_clientside.no_update;
  },

  /* What the header speaks of changes less often than the view. */
  gates: function (shown, mounted, subject, timeline, over, pages) {
    const all = window.dash_clientside;
    const none = all.no_update;
    const same = !shown || (subject && subject.item === shown.item && subject.device === shown.device);
    const alike = all.oomdoctor_timeline.alike;
    const opened = (page) => shown && shown.tab === page && mounted.includes(page);
    return [
      same ? none : { item: shown.item, device: shown.device },
      shown && !alike(shown, timeline, "timeline") ? shown : none,
      opened("fragmentation") && !alike(shown, over, "fragmentation") ? shown : none,
      ...pages.map((page) => (opened(page) ? shown : none)),
    ];
  },

  /* All that follows from a view at once: each callback costs the browser some ten milliseconds. */
  viewed: function (view, plays, speed, stopped, info, standard, tab, dark, mode, axis, event) {
    const all = window.dash_clientside;
    return [
      ...all.oomdoctor.followView(view, standard, tab, dark),
      ...all.oomdoctor_timeline.controls(view, mode, axis),
      all.oomdoctor_moment.number(view, info, event),
      ...all.oomdoctor_moment.play(plays, speed, view, stopped, info),
    ];
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

/* Words of help close at a click beside them, and with Escape. */
(function () {
  const close = (except) =>
    document.querySelectorAll("details.od-help[open]").forEach((one) => {
      if (!except || !one.contains(except)) {
        one.open = false;
      }
    });
  document.addEventListener("click", (event) => close(event.target));
  document.addEventListener("keydown", (event) => event.key === "Escape" && close(null));
})();
