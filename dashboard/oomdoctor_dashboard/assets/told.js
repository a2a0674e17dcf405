/* What is only read comes as a tree in ``data-told`` and is built here: see told.py. */
(function () {
  "use strict";

  const TAGS = new Set(["b", "button", "code", "details", "div", "i", "li", "p", "span", "summary", "table", "tbody", "td", "tr", "ul"]);
  const ATTRIBUTES = /^(class|title|type|aria-[a-z]+|data-[a-z]+)$/;

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

  function tell(place) {
    if (place.told === place.dataset.told) return;
    place.told = place.dataset.told;
    place.replaceChildren(...(place.told ? JSON.parse(place.told).map(built) : []));
  }

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
