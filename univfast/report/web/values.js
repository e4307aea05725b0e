"use strict";
// What charts and table are made of. It stands in the page, in the element "data", of which
// univfast/report/web/data.py says what it holds.
const univfast = (() => {
  document.documentElement.classList.add("js");
  const byId = (id) => document.getElementById(id);

  // ---------------------------------------------------------------- data

  // An array as Python packed it; null stays null.
  function unpack(packed) {
    if (!packed) return null;
    const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0)).buffer;
    const kinds = { f8: Float64Array, f4: Float32Array, i4: Int32Array, u1: Uint8Array };
    return new kinds[packed.kind](bytes);
  }

  // A result with its arrays unpacked, and which layer each neuron is in.
  function open(d) {
    const arrays = ["chance", "r", "baseline", "excess", "matchLayer", "matchNeuron", "mutual",
      "aboveControls", "smallest", "largest"];
    for (const name of arrays) d[name] = unpack(d[name]);
    d.layerOf = new Int32Array(d.r.length);
    d.first = [];
    let at = 0;
    d.widths.forEach((width, layer) => {
      d.first.push(at);
      d.layerOf.fill(layer, at, (at += width));
    });
    const rows = d.listed;
    rows.neuron = unpack(rows.neuron);
    rows.values = {};
    for (const column of rows.columns) rows.values[column.name] = unpack(column.values);
    if (rows.tops) for (const name of ["layer", "neuron", "r"]) rows.tops[name] = unpack(rows.tops[name]);
    for (const model of rows.models) {
      for (const name of ["matchLayer", "matchNeuron", "r", "excess"]) model[name] = unpack(model[name]);
    }
    d.hasExcess = d.excess.some((x) => !Number.isNaN(x));
    d.key = d.hasExcess ? d.excess : d.r;
    d.live = d.r.reduce((count, x) => count + !Number.isNaN(x), 0);
    d.at = d.steps.indexOf(d.threshold);
    return d;
  }

  const numberOf = (d, i) => i - d.first[d.layerOf[i]];
  const isFlagged = (d, i) => d.excess[i] > d.steps[d.at];

  // How many pass the slider's threshold in each layer: universal, learned, and by chance.
  function counted(d) {
    const found = { universal: d.widths.map(() => 0), learned: 0, chance: null };
    for (let i = 0; i < d.excess.length; i++) {
      if (!isFlagged(d, i)) continue;
      found.universal[d.layerOf[i]] += 1;
      if (d.aboveControls && d.aboveControls[i] > d.margin) found.learned += 1;
    }
    const layers = d.widths.length;
    if (d.chance) found.chance = Array.from(d.chance.slice(d.at * layers, (d.at + 1) * layers));
    found.total = found.universal.reduce((a, b) => a + b, 0);
    found.byChance = found.chance && found.chance.reduce((a, b) => a + b, 0);
    return found;
  }

  // ---------------------------------------------------------------- words

  const whole = (x) => Math.round(x).toLocaleString("en-US");
  const oneDigit = (x) =>
    x.toLocaleString("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  const signed = (x) =>
    x == null || Number.isNaN(x) ? "–" : (x < 0 ? "−" : "+") + Math.abs(x).toFixed(3);
  const short = (x) => (x == null || Number.isNaN(x) ? "–" : Number(x.toPrecision(4)).toString());

  // A name of at most so many characters, without its middle; what cannot be seen is a space.
  function middle(name, most = 40) {
    const seen = [...name.replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, " ")];
    if (seen.length <= most) return seen.join("");
    const half = Math.floor((most - 1) / 2);
    return seen.slice(0, most - 1 - half).join("") + "…" + seen.slice(-half).join("");
  }

  const matchName = (d, layer, neuron, most) =>
    neuron < 0 ? "none" : `${middle(d.matchLayers[layer] ?? "", most)}/${neuron}`;
  const neuronName = (d, i, most) => `${middle(d.layers[d.layerOf[i]], most)}/${numberOf(d, i)}`;

  // An element with properties and children; names are only ever text.
  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  const results = JSON.parse(byId("data").textContent).map(open);
  return { byId, results, counted, isFlagged, numberOf, whole, oneDigit, signed, short, middle,
    matchName, neuronName, make };
})();
