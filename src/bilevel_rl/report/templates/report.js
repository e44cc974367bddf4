"use strict";
(() => {
  document.documentElement.classList.remove("no-js");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const theme = () => {
    const [ink, soft, line, accent] = dark.matches
      ? ["#e4e8ec", "#9aa6b2", "#323b45", "#ff7b8f"]
      : ["#1f2933", "#5c6873", "#dfe3e8", "#c0344d"];
    const series = dark.matches
      ? ["#58b4d8", "#f0b45c", "#8fc16a", "#b78be0", "#9fb0c0", "#cf8f7f"]
      : ["#0b6e99", "#d98a1f", "#4f772d", "#7b4fa3", "#5c677d", "#8c564b"];
    const text = { labelColor: soft, titleColor: soft, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 400 };
    return {
      background: "transparent",
      font: "system-ui, sans-serif",
      view: { stroke: null },
      rule: { color: series[0] },
      axis: { ...text, gridColor: line, domainColor: line, tickColor: line },
      legend: { ...text, labelColor: ink, symbolType: "square", symbolOpacity: 1 },
      range: { category: series, ordinal: [dark.matches ? "#6f7c89" : "#b3bcc6", series[0]] },
      mark: { color: series[0] },
      style: {
        accent: { color: accent, stroke: accent, fill: accent },
        muted: { color: soft, stroke: soft, opacity: 0.5 },
        hollow: { fill: dark.matches ? "#1c2229" : "#ffffff", stroke: ink, strokeWidth: 1.5, opacity: 1 },
      },
    };
  };
  const draw = async (box) => {
    const spec = JSON.parse(document.getElementById(box.dataset.spec).textContent);
    if (box.finalize) box.finalize();
    const options = { mode: "vega-lite", actions: false, renderer: "svg", config: theme(), tooltip: { theme: "custom" } };
    const view = await vegaEmbed(box, spec, options);
    box.finalize = () => view.finalize();
    box.setAttribute("data-drawn", "");
  };
  const drawAll = () => Promise.all([...document.querySelectorAll(".chart")].map(draw));
  drawAll().catch((error) => console.error(error));
  dark.addEventListener("change", () => drawAll().catch((error) => console.error(error)));
  for (const button of document.querySelectorAll(".pause")) {
    button.addEventListener("click", () => {
      const isPaused = button.closest("section").classList.toggle("paused");
      button.setAttribute("aria-pressed", String(isPaused));
    });
  }
})();
