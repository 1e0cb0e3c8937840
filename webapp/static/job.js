// The output of a job while it runs: tokens are appended as they come, a snapshot replaces all text before it.
(() => {
  "use strict";
  const output = document.getElementById("output");
  if (!output?.dataset.events) return;
  // The page came with what there was; the stream begins at the beginning.
  let isFirst = true;

  function restart(text) {
    output.textContent = text;
    isFirst = false;
  }

  function follow() {
    const events = new EventSource(output.dataset.events);
    isFirst = true;
    events.addEventListener("token", (event) => {
      if (isFirst) restart("");
      const data = JSON.parse(event.data);
      output.append(data.text);
      output.scrollTop = output.scrollHeight;
    });
    events.addEventListener("snapshot", (event) => restart(JSON.parse(event.data).text));
    events.addEventListener("completed", () => events.close());
    // A browser comes back by itself when a connection breaks, and never again when it was answered with an error.
    events.addEventListener("error", () => {
      if (events.readyState === EventSource.CLOSED) setTimeout(follow, 3000);
    });
  }

  follow();
})();
