// What every page gains by scripts; without them everything works but is not live.
(() => {
  "use strict";

  const pill = document.getElementById("live-state");
  const live = document.getElementById("live");
  // The session is over, the role was taken, what is shown is no more: the page itself says so better.
  const GONE = new Set([401, 403, 404]);
  let paused = false;

  function showLive(state) {
    if (!pill) return;
    pill.hidden = false;
    pill.textContent = state;
    pill.dataset.state = state;
    pill.setAttribute("aria-label", `Updates: ${state}; press to ${paused ? "go on" : "pause"}`);
  }

  // By GET, whatever form has led here: none is sent twice.
  function loadAnew() {
    const here = new URL(live.getAttribute("hx-sse:connect"), location.href);
    here.searchParams.delete("live");
    location.replace(here);
  }

  // htmx tells of its streams on the document, before anybody else hears of it.
  document.addEventListener("htmx:sse:after:connection", () => showLive(paused ? "paused" : "live"), true);
  document.addEventListener("htmx:sse:error", (event) => {
    if (GONE.has(event.detail?.status)) loadAnew();
    else showLive("reconnecting");
  }, true);
  // That was the stream opened again. The first time it is a request like any other: htmx would put a refusal in place
  // of what is shown, and leave it at that.
  const isOfStream = (event) => live && event.detail.ctx?.sourceElement === live;
  function openAgainLater() {
    showLive("reconnecting");
    setTimeout(() => htmx.ajax("GET", live.getAttribute("hx-sse:connect"), { source: live }), 3000);
  }
  document.addEventListener("htmx:before:response", (event) => {
    const status = event.detail.ctx?.response.status;
    if (!isOfStream(event) || status < 400) return;
    event.preventDefault();
    if (GONE.has(status)) loadAnew();
    else openAgainLater();
  }, true);
  document.addEventListener("htmx:error", (event) => {
    if (isOfStream(event)) openAgainLater();
  }, true);
  document.addEventListener("htmx:sse:before:message", (event) => {
    if (paused) event.preventDefault();
    else showLive(event.detail.message.event === "stale" ? "stale" : "live");
  }, true);
  pill?.addEventListener("click", () => {
    paused = !paused;
    if (paused) showLive("paused");
    else loadAnew();
  });

  const theme = document.getElementById("theme");
  if (theme) {
    theme.hidden = false;
    theme.addEventListener("click", () => {
      const isDark = document.documentElement.dataset.theme
        ? document.documentElement.dataset.theme === "dark"
        : matchMedia("(prefers-color-scheme: dark)").matches;
      const wanted = isDark ? "light" : "dark";
      document.documentElement.dataset.theme = wanted;
      localStorage.setItem("sllm-theme", wanted);
    });
  }

  document.addEventListener("keydown", (event) => {
    const isTyping = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
    if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey) return;
    const search = document.querySelector("input[type=search]");
    if (!search) return;
    event.preventDefault();
    search.focus();
  });

  for (const button of document.querySelectorAll("[data-copy]")) {
    // Only where the browser lets pages write to the clipboard: https, or this machine.
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }
})();
