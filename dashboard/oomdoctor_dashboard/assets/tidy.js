/* Keep the tab small while someone works in it.

   Each drawing leaves some 10 MB behind. The browser's heaps may grow to several times what is alive before they are
   collected, and did: 310 MiB after a hundred interactions, of which 130 were alive. A page cannot ask for a
   collection, but for its memory, and V8 starts to collect for that 10 to 20 s later if nothing else has made it
   (src/heap/memory-measurement.cc, MemoryMeasurement::ScheduleGCTask). So it is asked once after something on the page
   has changed, and not again before the answer: a page at rest costs nothing. Only pages that are isolated from other
   origins may ask (access.py); in others, and in other browsers, nothing is done. */
(function () {
  if (!window.crossOriginIsolated || !performance.measureUserAgentSpecificMemory) return;
  // Dash marks there that it awaits an answer; looking for news is no change.
  const waits = (record) => record.target.id === "react-entry-point";
  const changes = new MutationObserver((records) => {
    if (records.every(waits)) return;
    changes.disconnect();
    performance.measureUserAgentSpecificMemory().then(wait, () => {});
  });
  const wait = () => changes.observe(document.body, { subtree: true, childList: true });
  document.addEventListener("DOMContentLoaded", wait);
})();
