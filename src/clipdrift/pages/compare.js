"use strict";
// The page works without this file; it adds the choice of a table of heads and starts the attention viewer.
(() => {
  function showHeads() {
    const select = byId("heads-measure");
    if (!select) return;
    const show = () => {
      for (const part of document.querySelectorAll("[data-heads]")) {
        part.hidden = part.dataset.heads !== select.value;
      }
    };
    select.addEventListener("change", show);
    show();
  }

  showHeads();
  const packed = byId("view-data");
  if (packed) attentionViewer(JSON.parse(packed.textContent));
})();
