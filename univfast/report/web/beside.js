"use strict";
// Several results beside each other: the same charts of each, on the same axes.
(() => {
  const { byId, counted, bars, histogram, layersChart } = univfast;
  // Each with its place on the page; one without any correlation has no charts.
  const results = univfast.results.map((d, k) => Object.assign(d, { k })).filter((d) => d.live);
  const low = Math.min(...results.map((d) => d.axis[0]));
  const high = Math.max(...results.map((d) => d.axis[1]));

  // Bars of a result on the axes of all: those that it does not have are empty.
  function widen(d) {
    const before = Math.round((d.axis[0] - low) / d.bin);
    const after = Math.round((high - d.axis[1]) / d.bin);
    for (const one of d.nulls) one.bars = [...Array(before).fill(0), ...one.bars, ...Array(after).fill(0)];
    d.axis = [low, high];
  }

  function draw() {
    const highest = (d) => {
      const { rest, flagged } = bars(d);
      return Math.max(...rest.map((x, k) => x + flagged[k]), ...d.nulls.flatMap((one) => one.bars), 1);
    };
    const inLayers = (d) => {
      const found = counted(d);
      return Math.max(1, ...found.universal, ...(found.chance ?? []), ...d.layersByControl.map((x) => x ?? 0));
    };
    const log = document.querySelector('input[name="counts"]:checked').value === "log";
    const [top, most] = [Math.max(...results.map(highest)), Math.max(...results.map(inLayers))];
    for (const d of results) {
      histogram(byId(`histogram-${d.k}`), d, { log, top, height: 280 });
      layersChart(byId(`layers-${d.k}`), d, most);
    }
  }

  results.forEach(widen);
  for (const input of document.querySelectorAll('input[name="counts"]')) input.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
