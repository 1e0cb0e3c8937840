// The output of a job while it runs: tokens are appended as they come, a snapshot replaces all text before it.
(() => {
  "use strict";
  const output = document.getElementById("output");
  if (!output?.dataset.events) return;
  const events = new EventSource(output.dataset.events);
  // The page came with what there was; the stream begins at the beginning.
  let isFirst = true;

  function restart(text) {
    output.textContent = text;
    isFirst = false;
  }

  events.addEventListener("token", (event) => {
    if (isFirst) restart("");
    const data = JSON.parse(event.data);
    output.append(data.text);
    output.scrollTop = output.scrollHeight;
  });
  events.addEventListener("snapshot", (event) => restart(JSON.parse(event.data).text));
  events.addEventListener("completed", () => events.close());
})();
