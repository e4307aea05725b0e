"use strict";
// The slider, switches, filters and table of a report, and how its charts follow them.
(() => {
  const { byId, results: [d], counted, isFlagged, numberOf, whole, oneDigit, signed, short, middle,
    matchName, neuronName, make, histogram, cloud, layersChart, heatMap } = univfast;
  const PAGE = 50; // rows of the table at a time
  const rows = Array.from(d.listed.neuron); // neurons of the table, by their place in the result
  const known = d.listed.values;

  const state = {
    log: false, kind: "universal", as: "count", model: 0,
    search: "", layer: "", span: null, box: null, cell: null,
    sort: d.hasExcess ? "excess" : "r", down: true, page: 0, opened: null,
  };
  let charts = [];
  let heat = null;

  // ---------------------------------------------------------------- charts

  function draw() {
    charts = [];
    const brushed = (name) => (range) => {
      state[name] = range;
      state.page = 0;
      fill();
    };
    if (byId("histogram")) {
      charts.push(histogram(byId("histogram"), d, { log: state.log, onBrush: brushed("span") }));
    }
    if (byId("cloud")) {
      charts.push(cloud(byId("cloud"), d, { x: d.baseline, y: d.r, labels: ["baseline", "r"],
        log: state.log, onBrush: brushed("box"), thresholdLine: true }));
    }
    if (byId("range")) {
      charts.push(cloud(byId("range"), d, { x: d.largest, y: d.smallest, log: state.log,
        labels: ["largest r over the models", "smallest r"] }));
    }
    if (byId("layers-chart")) charts.push(layersChart(byId("layers-chart"), d));
    drawHeat();
  }

  function drawHeat() {
    if (!byId("heat")) return;
    const table = d.heat[state.model];
    heat = heatMap(byId("heat"), table, { kind: state.kind, as: state.as, onCell: (i, j) => {
      state.cell = { row: table.rows[i], column: table.columns[j], model: table.model };
      state.page = 0;
      fill();
      byId("neurons").scrollIntoView({ block: "start" });
    } });
  }

  // ---------------------------------------------------------------- threshold

  // Writes what passes the slider's threshold, and lets charts and table follow.
  function follow() {
    const slider = byId("threshold");
    d.at = Number(slider.value);
    const threshold = d.steps[d.at];
    slider.setAttribute("aria-valuetext", threshold.toFixed(2));
    byId("threshold-value").textContent = String(threshold);
    const found = counted(d);
    byId("now-universal").textContent = whole(found.total);
    byId("now-share").textContent = d.live ? `${((100 * found.total) / d.live).toFixed(1)}% of live` : "";
    const chance = byId("now-chance");
    if (chance) chance.textContent = found.chance ? oneDigit(found.byChance) : "–";
    const learned = byId("now-learned");
    if (learned) learned.textContent = whole(found.learned);
    const own = d.threshold === threshold;
    byId("reset-threshold").disabled = own;
    const control = byId("now-control");
    if (control) control.classList.toggle("stale", !own);
    for (const one of charts) one.update();
    state.page = 0;
    fill();
  }

  // ---------------------------------------------------------------- table

  const layerName = (i) => d.layers[d.layerOf[i]];
  const matchLayer = (i) => d.matchLayers[d.matchLayer[i]] ?? "";
  const value = (name) => (i, row) => (known[name] ? known[name][row] : NaN);

  // The columns: a title, what to sort by, and what to show; words are left, numbers right.
  const columns = [
    { key: "layer", title: "layer", of: (i) => d.layerOf[i], say: layerName, words: true },
    { key: "neuron", title: "neuron", of: (i) => numberOf(d, i), say: (i) => String(numberOf(d, i)) },
    ...(d.allPairs ? [
      { key: "match-layer", title: "match layer", of: (i) => d.matchLayer[i], say: matchLayer, words: true },
      { key: "match", title: "match", of: (i) => d.matchNeuron[i],
        say: (i) => (d.matchNeuron[i] < 0 ? "–" : String(d.matchNeuron[i])) },
    ] : []),
    { key: "r", title: "r", of: (i) => d.r[i], say: (i) => signed(d.r[i]) },
    ...(d.smallest ? [
      { key: "smallest", title: "smallest", of: (i) => d.smallest[i], say: (i) => signed(d.smallest[i]) },
      { key: "largest", title: "largest", of: (i) => d.largest[i], say: (i) => signed(d.largest[i]) },
    ] : []),
    ...(d.hasExcess ? [
      { key: "baseline", title: "baseline", of: (i) => d.baseline[i], say: (i) => signed(d.baseline[i]) },
      { key: "excess", title: "excess", of: (i) => d.excess[i], say: (i) => signed(d.excess[i]) },
    ] : []),
    ...(known.q_value ? [
      { key: "q", title: "q", of: value("q_value"), say: (i, row) => short(known.q_value[row]) },
    ] : []),
    ...(d.mutual ? [
      { key: "mutual", title: "mutual", of: (i) => d.mutual[i], say: (i) => (d.mutual[i] ? "yes" : "no"), words: true },
    ] : []),
    ...(d.aboveControls ? [
      { key: "above", title: "above controls", of: (i) => d.aboveControls[i], say: (i) => signed(d.aboveControls[i]) },
      { key: "learned", title: "learned", of: (i) => Number(isLearned(i)), say: (i) => (isLearned(i) ? "yes" : "no"), words: true },
    ] : []),
  ];
  function isLearned(i) {
    return isFlagged(d, i) && d.aboveControls[i] > d.margin;
  }

  const within = (x, range) => x >= range[0] && x <= range[1];

  // Places in the table of the neurons that pass the threshold and all filters, sorted.
  function chosen() {
    const words = state.search.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    for (let row = 0; row < rows.length; row++) {
      const i = rows[row];
      if (d.hasExcess && !isFlagged(d, i)) continue;
      if (state.layer !== "" && d.layerOf[i] !== Number(state.layer)) continue;
      if (state.span && !within(d.key[i], state.span)) continue;
      if (state.box && !(within(d.baseline[i], state.box.x) && within(d.r[i], state.box.y))) continue;
      if (state.cell && !inCell(i, row)) continue;
      if (words.length) {
        const text = `${layerName(i)}/${numberOf(d, i)} ${matchLayer(i)}/${d.matchNeuron[i]}`.toLowerCase();
        if (!words.every((word) => text.includes(word))) continue;
      }
      found.push(row);
    }
    const column = columns.find((one) => one.key === state.sort);
    if (!column) return found;
    const sign = state.down ? -1 : 1;
    return found.map((row) => [column.of(rows[row], row), row]).sort(([x, a], [y, b]) => {
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;
      return sign * (x - y) || a - b;
    }).map(([, row]) => row);
  }

  // Whether a neuron has its match where the map was clicked, in the model of that map.
  function inCell(i, row) {
    if (layerName(i) !== state.cell.row) return false;
    const model = d.listed.models.find((one) => one.model === state.cell.model);
    const layer = model ? model.matchLayer[row] : d.matchLayer[i];
    return d.matchLayers[layer] === state.cell.column;
  }

  function head() {
    const line = byId("head");
    for (const column of columns) {
      const button = make("button", { type: "button", textContent: column.title });
      button.addEventListener("click", () => {
        state.down = state.sort === column.key ? !state.down : !column.words;
        state.sort = column.key;
        state.page = 0;
        fill();
      });
      const cell = make("th", { scope: "col", className: column.words ? "" : "number" }, button);
      cell.dataset.key = column.key;
      line.append(cell);
    }
  }

  // Writes the rows that are chosen, a page of them, and what chose them.
  function fill() {
    for (const cell of byId("head").children) {
      const sorted = cell.dataset.key === state.sort;
      cell.setAttribute("aria-sort", sorted ? (state.down ? "descending" : "ascending") : "none");
    }
    const found = chosen();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    const part = found.slice(state.page * PAGE, (state.page + 1) * PAGE);
    byId("rows").replaceChildren(...part.map(line));
    const from = state.page * PAGE;
    byId("count").textContent = found.length
      ? `${whole(from + 1)}–${whole(from + part.length)} of ${whole(found.length)}` : "none";
    byId("nothing").hidden = found.length > 0;
    byId("previous").disabled = state.page === 0;
    byId("next").disabled = state.page >= pages - 1;
    chips();
  }

  function line(row) {
    const i = rows[row];
    const cells = columns.map((column) => {
      const said = column.say(i, row);
      const text = column.words ? middle(said, 32) : said;
      const cell = make("td", { className: column.words ? "word" : "number" }, make("bdi", { textContent: text }));
      if (text !== said) cell.title = said;
      if (text === "yes") cell.classList.add("yes");
      return cell;
    });
    const element = make("tr", { tabIndex: 0 }, ...cells);
    element.dataset.row = row;
    element.setAttribute("aria-selected", String(row === state.opened));
    element.addEventListener("click", () => detail(row));
    element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      detail(row);
    });
    return element;
  }

  // The rows were written anew: the keyboard goes on from the one of a neuron, or from the table.
  function focusRow(row) {
    const found = Array.from(byId("rows").children).find((one) => one.dataset.row === String(row));
    (found ?? byId("search")).focus();
  }

  // What restricts the table, each with a button that takes it away.
  function chips() {
    const two = (range) => range.map((x) => x.toFixed(2)).join(" to ");
    const found = [];
    if (state.span) found.push([`${d.hasExcess ? "excess" : "r"} ${two(state.span)}`, "span"]);
    if (state.box) found.push([`baseline ${two(state.box.x)}, r ${two(state.box.y)}`, "box"]);
    if (state.cell) found.push([`${middle(state.cell.row, 24)} → ${middle(state.cell.column, 24)}`, "cell"]);
    byId("chips").replaceChildren(...found.map(([text, name]) => {
      const chip = make("button", { type: "button", className: "chip", title: "take this filter away" },
        make("bdi", { textContent: text }), " ×");
      chip.addEventListener("click", () => {
        state[name] = null;
        fill();
      });
      return chip;
    }));
  }

  // ---------------------------------------------------------------- one neuron

  // A table whose first column is words; what the columns of "meant" mean stands at their names.
  function table(titles, lines, meant = []) {
    const head = make("tr", {}, ...titles.map((title, k) =>
      make("th", { scope: "col", className: k ? "number" : "", textContent: title })));
    const body = lines.map((cells, at) => make("tr", {}, ...cells.map((text, k) => {
      const cell = make("td", { className: k ? "number" : "word" }, make("bdi", { textContent: middle(text, 48) }));
      if (middle(text, 48) !== text) cell.title = text;
      if (!k && meant[at]) cell.title = meant[at].meaning;
      return cell;
    })));
    return make("div", { className: "wide" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  // All numbers that are known of a neuron: those of the pair, and those that both have.
  function numbers(row) {
    const there = d.listed.columns.filter((one) => !Number.isNaN(known[one.name][row]));
    const own = new Set(there.map((one) => one.name));
    const both = there.filter((one) => own.has(`match_${one.name}`));
    const ofBoth = new Set(both.flatMap((one) => [one.name, `match_${one.name}`]));
    const pair = there.filter((one) => !ofBoth.has(one.name));
    const say = (name) => short(known[name][row]);
    const found = [];
    if (pair.length) {
      found.push(make("div", {}, make("h4", { textContent: "Numbers of the pair" }),
        table(["", "value"], pair.map((one) => [one.name, say(one.name)]), pair)));
    }
    if (both.length) {
      found.push(make("div", {}, make("h4", { textContent: "Of the neuron and of its match" }),
        table(["", "neuron", "match"],
          both.map((one) => [one.name, say(one.name), say(`match_${one.name}`)]), both)));
    }
    return found;
  }

  // Opens below the table what is known of a neuron: partners, each model, all numbers, contexts.
  function detail(row) {
    state.opened = row;
    const i = rows[row];
    const pane = byId("detail");
    const parts = [make("h3", {}, make("bdi", { textContent: neuronName(d, i, 60) }),
      ...(d.allPairs ? [" → ", make("bdi", { textContent: matchName(d, d.matchLayer[i], d.matchNeuron[i], 60) })] : []))];
    const low = known.correlation_low;
    const interval = low && !Number.isNaN(low[row])
      ? `, 95% interval ${signed(low[row])} to ${signed(known.correlation_high[row])}` : "";
    const excess = d.hasExcess ? `; baseline ${signed(d.baseline[i])}; excess ${signed(d.excess[i])}` : "";
    parts.push(make("p", { textContent: `r ${signed(d.r[i])}${interval}${excess}.` }));
    const blocks = [];
    const { tops, models } = d.listed;
    if (tops) {
      const lines = [];
      for (let k = row * tops.width; k < (row + 1) * tops.width; k++) {
        if (tops.neuron[k] >= 0) lines.push([matchName(d, tops.layer[k], tops.neuron[k], 200), signed(tops.r[k])]);
      }
      blocks.push(make("div", {}, make("h4", { textContent: "Highest r in B" }), table(["partner", "r"], lines)));
    }
    if (models.length) {
      blocks.push(make("div", {}, make("h4", { textContent: "In each model" }), table(["model", "match", "r", "excess"],
        models.map((one) => [one.model, matchName(d, one.matchLayer[row], one.matchNeuron[row], 40),
          signed(one.r[row]), signed(one.excess[row])]))));
    }
    blocks.push(...numbers(row));
    parts.push(make("div", { className: "columns" }, ...blocks));
    const name = `${layerName(i)}/${numberOf(d, i)}`;
    const contexts = Array.from(document.querySelectorAll("details[data-neuron]"))
      .find((one) => one.dataset.neuron === name);
    if (contexts) {
      const link = make("button", { type: "button", className: "plain", textContent: "What it does: contexts of both, side by side" });
      link.addEventListener("click", () => {
        contexts.open = true;
        contexts.scrollIntoView({ block: "start" });
      });
      parts.push(make("p", {}, link));
    }
    const close = make("button", { type: "button", className: "plain close", textContent: "Close" });
    close.addEventListener("click", () => {
      pane.hidden = true;
      state.opened = null;
      fill();
      focusRow(row);
    });
    pane.replaceChildren(close, ...parts);
    pane.hidden = false;
    fill();
    pane.focus({ preventScroll: true });
    pane.scrollIntoView({ block: "nearest" });
  }

  // ---------------------------------------------------------------- switches

  // Calls with the value of whichever radio button of a name is chosen.
  function choice(name, chosenOne) {
    for (const input of document.querySelectorAll(`input[name="${name}"]`)) {
      input.addEventListener("change", () => chosenOne(input.value));
    }
  }

  // Where no neuron has a correlation there is nothing to draw and nothing to list.
  if (!rows.length) return;
  const kinds = Array.from(document.querySelectorAll('input[name="kind"]'), (input) => input.value);
  state.kind = kinds[0] ?? state.kind;
  head();
  byId("threshold").addEventListener("input", follow);
  byId("reset-threshold").addEventListener("click", () => {
    byId("threshold").value = d.steps.indexOf(d.threshold);
    follow();
  });
  choice("counts", (chosenOne) => {
    state.log = chosenOne === "log";
    draw();
  });
  choice("kind", (chosenOne) => {
    state.kind = chosenOne;
    drawHeat();
  });
  choice("as", (chosenOne) => {
    state.as = chosenOne;
    drawHeat();
  });
  byId("search").addEventListener("input", (event) => {
    state.search = event.target.value;
    state.page = 0;
    fill();
  });
  byId("layer").addEventListener("change", (event) => {
    state.layer = event.target.value;
    state.page = 0;
    fill();
  });
  if (byId("model")) {
    byId("model").addEventListener("change", (event) => {
      state.model = Number(event.target.value);
      drawHeat();
    });
  }
  byId("previous").addEventListener("click", () => {
    state.page -= 1;
    fill();
  });
  byId("next").addEventListener("click", () => {
    state.page += 1;
    fill();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
  follow();
  Object.assign(univfast, { state, chosen, heat: () => heat });
})();
