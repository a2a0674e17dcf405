/* The parts of the page that need no server: the address, the moment's way from wanted to shown, uploads. */
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.oomdoctor = Object.assign(window.dash_clientside.oomdoctor || {}, {
  /* The view is in the address; a reload or a shared link shows the same. */
  writeAddress: function (query) {
    const path = window.location.pathname + (query ? "?" + query : "");
    if (path !== window.location.pathname + window.location.search) {
      window.history.replaceState(window.history.state, "", path);
    }
    return window.location.origin + path;
  },

  /* Tables take their colours from the page. */
  colours: function (scheme) {
    document.body.dataset.agThemeMode = scheme;
    return "od-" + scheme;
  },

  /* The recording is at hand: nothing to wait for. */
  showAtOnce: function (view, shown) {
    if (!view || !shown || view.item !== shown.item || view.device !== shown.device) {
      return window.dash_clientside.no_update;
    }
    return view;
  },
});

(function () {
  "use strict";

  async function send(files) {
    for (const file of files) {
      let answer;
      try {
        const response = await fetch("/_upload?name=" + encodeURIComponent(file.name), {
          method: "POST",
          headers: { "X-Oomdoctor-Upload": "1", "Content-Type": "application/octet-stream" },
          body: file,
        });
        answer = await response.json();
      } catch (error) {
        answer = { error: "the file could not be sent: " + error.message };
      }
      answer.name = file.name;
      answer.at = Date.now();
      window.dash_clientside.set_props("uploaded", { data: answer });
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
