/* What is only read comes as a tree in ``data-told`` and is built here: see told.py. */
(function () {
  "use strict";

  const TAGS = new Set(["b", "button", "code", "details", "div", "i", "li", "p", "span", "summary", "table", "tbody", "td", "tr", "ul"]);
  const ATTRIBUTES = /^(aria-label|class|disabled|id|title|type|data-[a-z]+)$/;

  function built(told) {
    if (!Array.isArray(told)) return document.createTextNode(String(told));
    const [tag, attributes, ...children] = told;
    if (!TAGS.has(tag)) throw new Error("no element is told as " + tag);
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (!ATTRIBUTES.test(name)) throw new Error("no attribute is told as " + name);
      element.setAttribute(name, value);
    }
    element.append(...children.map(built));
    return element;
  }

  /* Whoever goes by keyboard stays where they were, and what was opened stays open. */
  function tell(place) {
    if (place.told === place.dataset.told) return;
    place.told = place.dataset.told;
    const all = (what) => Array.from(place.querySelectorAll(what));
    const focused = all("button, summary").indexOf(document.activeElement);
    const opened = all("details").map((one) => one.open);
    let parts = [];
    try {
      if (place.told) parts = JSON.parse(place.told).map(built);
    } catch (error) {
      console.error(error); // one place that cannot be told must not silence the others
    }
    place.replaceChildren(...parts);
    all("details").forEach((one, i) => (one.open = Boolean(opened[i])));
    const there = all("button, summary");
    if (focused >= 0 && there.length) there[Math.min(focused, there.length - 1)].focus({ preventScroll: true });
  }

  /* Buttons that copy: the text of the element that they name, or what they have, else the address of the page. */
  async function copy(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    // Not on a page that came over plain HTTP from another machine.
    const box = document.createElement("textarea");
    box.value = text;
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest && event.target.closest("button[data-copy], button[data-from]");
    if (!button || button.dataset.copied) return;
    const word = button.textContent;
    let said = "copied";
    try {
      const { from } = button.dataset;
      await copy(from ? document.getElementById(from).textContent : button.dataset.copy || window.location.href);
    } catch {
      said = "not allowed";
    }
    button.dataset.copied = button.textContent = said;
    setTimeout(() => {
      button.textContent = word;
      delete button.dataset.copied;
    }, 1500);
  });

  new MutationObserver((changes) => {
    for (const change of changes) {
      if (change.type === "attributes") tell(change.target);
      for (const added of change.addedNodes) {
        if (!added.querySelectorAll) continue;
        if (added.dataset && "told" in added.dataset) tell(added);
        added.querySelectorAll("[data-told]").forEach(tell);
      }
    }
  }).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-told"] });
})();
