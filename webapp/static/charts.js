// Draws each table of a chart; what is drawn is what the table says.
(() => {
  "use strict";
  const COLOURS = ["--info", "--good", "--wait"];
  const HEIGHT = 220;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plots = [];

  function read(figure) {
    const rows = [...figure.querySelectorAll("tbody tr")];
    const times = rows.map((row) => Date.parse(row.querySelector("time").dateTime) / 1000);
    const names = [...figure.querySelectorAll("thead th")].slice(1).map((cell) => cell.textContent);
    const values = names.map((_, index) => rows.map((row) => {
      const text = row.cells[index + 1].textContent;
      return text === "-" ? null : Number(text);
    }));
    return { names, data: [times, ...values] };
  }

  function draw(figure) {
    const place = figure.querySelector(".plot");
    const { names, data } = read(figure);
    place.hidden = false;
    // In UTC and 24 hours, as everywhere on these pages.
    const isLong = data[0].at(-1) - data[0][0] > 25 * 3600;
    const written = (_, seconds) => seconds.map((at) => {
      const iso = new Date(at * 1000).toISOString();
      return isLong ? iso.slice(5, 10) : iso.slice(11, 16);
    });
    const axis = { stroke: () => colour("--pico-color"), grid: { stroke: () => colour("--line"), width: 1 } };
    const series = names.map((label, index) => ({
      label, stroke: () => colour(COLOURS[index]), width: 2, spanGaps: false, points: { show: true, size: 4 },
    }));
    const options = {
      width: place.clientWidth, height: HEIGHT, legend: { show: false }, axes: [{ ...axis, values: written }, { ...axis, size: 60 }],
      tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
      scales: { y: { range: (_, least, most) => [Math.min(0, least ?? 0), most > 0 ? most * 1.05 : 1] } },
      series: [{}, ...series],
    };
    plots.push({ place, plot: new uPlot(options, data, place) });
  }

  document.querySelectorAll("[data-chart]").forEach(draw);
  addEventListener("resize", () => {
    for (const { place, plot } of plots) plot.setSize({ width: place.clientWidth, height: HEIGHT });
  });
  const redraw = () => plots.forEach(({ plot }) => plot.redraw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
