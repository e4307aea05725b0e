"use strict";
// The charts of a page, which are BokehJS's; each function draws one into an element.
Object.assign(univfast, (() => {
  const { counted, isFlagged, whole, oneDigit, signed, middle, matchName, neuronName } = univfast;

  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const AS_TEXT = "system-ui, sans-serif";
  Bokeh.logger.set_level("warn"); // else each chart says on the console that it is drawn
  const coarse = matchMedia("(pointer: coarse)").matches;

  // An empty chart in the page's colours, without a toolbar.
  function chart(options) {
    const figure = Bokeh.Plotting.figure({
      tools: [], toolbar_location: null, sizing_mode: "stretch_width", height: 340,
      background_fill_alpha: 0, border_fill_alpha: 0, outline_line_color: null,
      min_border_right: 18, min_border_top: 12, output_backend: "canvas", ...options,
    });
    for (const axis of [...figure.below, ...figure.left]) {
      axis.setv({
        axis_line_color: colour("line"), major_tick_line_color: colour("line"),
        minor_tick_line_color: null, axis_label_text_font_style: "normal",
        axis_label_text_font: AS_TEXT, axis_label_text_font_size: "13px",
        axis_label_text_color: colour("soft"), major_label_text_font: AS_TEXT,
        major_label_text_font_size: "12px", major_label_text_color: colour("soft"),
      });
    }
    for (const grid of figure.center) {
      grid.setv({ grid_line_color: colour("line"), grid_line_alpha: 0.6 });
    }
    return figure;
  }

  const shown = new Map();

  // Puts a chart into an element, in place of the one that is there.
  async function show(figure, element) {
    const before = shown.get(element);
    const now = {};
    shown.set(element, now);
    if (before && before.view) before.view.remove();
    element.replaceChildren();
    now.figure = figure;
    now.view = await Bokeh.Plotting.show(figure, element);
    if (shown.get(element) !== now) now.view.remove();
  }

  const source = (columns) => new Bokeh.ColumnDataSource({ data: columns });

  // A box of words at the pointer. Bokeh escapes the values.
  function hover(figure, renderers, rows) {
    const lines = rows.map(([name, value]) =>
      `<div><span style="color:var(--soft)">${name}</span> <bdi>${value}</bdi></div>`);
    const tooltips = `<div style="font:13px/1.45 ${AS_TEXT}">${lines.join("")}</div>`;
    figure.add_tools(new Bokeh.HoverTool({ renderers, tooltips, limit: 1, point_policy: "follow_mouse",
      show_arrow: false }));
  }

  // Calls with what a box that is drawn over a chart holds: two values, or four.
  function brush(figure, dimensions, chosen) {
    const overlay = new Bokeh.BoxAnnotation({
      fill_color: colour("accent"), fill_alpha: 0.12, line_color: colour("accent"), line_width: 1,
      visible: false,
    });
    const tool = new Bokeh.BoxSelectTool({ dimensions, overlay, renderers: [] });
    figure.add_tools(tool);
    figure.toolbar.active_drag = coarse ? null : tool;
    figure.on_event("selectiongeometry", (event) => {
      if (event.final && event.geometry.type === "rect") chosen(event.geometry);
    });
  }

  function mark(figure, threshold) {
    const line = new Bokeh.Span({
      location: threshold, dimension: "height", line_color: colour("text"), line_dash: [5, 4],
    });
    figure.add_layout(line);
    return line;
  }

  const edgesOf = (d) => {
    const bars = Math.round((d.axis[1] - d.axis[0]) / d.bin);
    return Array.from({ length: bars + 1 }, (_, k) => +(d.axis[0] + k * d.bin).toFixed(9));
  };

  // Neurons in each bar of the histogram: those that pass the threshold, and the others.
  function bars(d) {
    const edges = edgesOf(d);
    const count = edges.length - 1;
    const flagged = new Float64Array(count);
    const rest = new Float64Array(count);
    for (let i = 0; i < d.key.length; i++) {
      const x = d.key[i];
      if (Number.isNaN(x)) continue;
      let k = Math.min(count - 1, Math.max(0, Math.floor((x - edges[0]) / d.bin)));
      while (k < count - 1 && x >= edges[k + 1]) k += 1;
      while (k > 0 && x < edges[k]) k -= 1;
      (isFlagged(d, i) ? flagged : rest)[k] += 1;
    }
    return { edges, flagged, rest };
  }

  const LOG_FLOOR = 0.5; // of a logarithmic axis of counts: a neuron stands above it

  // The histogram of the excess, or of r where there is no baseline.
  function histogram(element, d, { log, top, onBrush, height }) {
    const found = bars(d);
    const floor = log ? LOG_FLOOR : 0;
    const highest = Math.max(...found.rest.map((x, k) => x + found.flagged[k]),
      ...d.nulls.flatMap((one) => one.bars), 1);
    const figure = chart({
      x_range: d.axis, y_range: [floor, (top ?? highest) * (log ? 2 : 1.05)],
      y_axis_type: log ? "log" : "linear", height: height ?? 340,
      x_axis_label: d.hasExcess ? "excess (r − baseline)" : "r (no baseline)",
      y_axis_label: "neurons",
    });
    if (!log) figure.left[0].ticker.setv({ min_interval: 1 });
    const columns = () => {
      const { edges, flagged, rest } = bars(d);
      const total = rest.map((x, k) => x + flagged[k]);
      return {
        left: edges.slice(0, -1), right: edges.slice(1), rest, flagged, total,
        bottom: rest.map(() => floor), low: rest.map((x) => Math.max(x, floor)),
        high: total.map((x) => Math.max(x, floor)),
        from: edges.slice(0, -1).map((x) => x.toFixed(2)), to: edges.slice(1).map((x) => x.toFixed(2)),
      };
    };
    const data = source(columns());
    const sides = { left: { field: "left" }, right: { field: "right" }, source: data };
    const others = figure.quad({ ...sides, bottom: { field: "bottom" }, top: { field: "low" },
      fill_color: colour("other"), line_color: colour("page"), line_width: 0.5 });
    const green = figure.quad({ ...sides, bottom: { field: "low" }, top: { field: "high" },
      fill_color: colour("accent"), line_color: colour("page"), line_width: 0.5 });
    for (const one of d.nulls) {
      const y = one.bars.map((x) => Math.max(x, floor));
      figure.step({ x: found.edges, y: [...y, y[y.length - 1]], mode: "after", line_width: 2,
        line_color: colour(one.tone), line_dash: one.tone === "chance" ? [] : [6, 3] });
    }
    const line = d.hasExcess ? mark(figure, d.steps[d.at]) : null;
    hover(figure, [others, green], [[d.hasExcess ? "excess" : "r", "@from to @to"],
      ["neurons", "@total{0,0}"], ["universal", "@flagged{0,0}"]]);
    if (onBrush) brush(figure, "width", (g) => onBrush([Math.min(g.x0, g.x1), Math.max(g.x0, g.x1)]));
    show(figure, element);
    return { data, figure, update: () => {
      data.data = columns();
      if (line) line.location = d.steps[d.at];
    } };
  }

  // Dots that a chart draws, and of more than it can draw one by one the cells of their density.
  function dots(d, x, y) {
    const there = [];
    for (let i = 0; i < x.length; i++) if (!Number.isNaN(x[i]) && !Number.isNaN(y[i])) there.push(i);
    const dense = there.length > d.mostDots;
    const flaggedOnes = dense ? Array.from(d.listed.neuron).filter((i) => isFlagged(d, i)) : there;
    return { dense, there, drawn: flaggedOnes };
  }

  function cells(d, x, y, there) {
    const size = d.bin / 2;
    const found = new Map();
    for (const i of there) {
      const key = Math.floor(x[i] / size) * 4096 + Math.floor(y[i] / size);
      found.set(key, (found.get(key) ?? 0) + 1);
    }
    const columns = { x: [], y: [], count: [] };
    for (const [key, count] of found) {
      const column = Math.floor((key + 2048) / 4096);
      columns.x.push((column + 0.5) * size);
      columns.y.push((key - column * 4096 + 0.5) * size);
      columns.count.push(count);
    }
    return columns;
  }

  // Colours from the page's to the accent, the faintest of them seen.
  function shades(to, least = 0.18) {
    const parse = (name) => colour(name).match(/[0-9a-f]{2}/gi).map((x) => parseInt(x, 16));
    const [from, end] = [parse("page"), parse(to)];
    return Array.from({ length: 64 }, (_, k) => {
      const share = least + ((1 - least) * k) / 63;
      const mix = from.map((x, c) => Math.round(x + share * (end[c] - x)));
      return "#" + mix.map((x) => x.toString(16).padStart(2, "0")).join("");
    });
  }

  // A dot a neuron, or density and a dot a universal one.
  function cloud(element, d, { x, y, labels, log, onBrush, thresholdLine }) {
    const figure = chart({ x_range: d.axis, y_range: d.axis, height: 420,
      x_axis_label: labels[0], y_axis_label: labels[1] });
    const { dense, there } = dots(d, x, y);
    figure.line({ x: d.axis, y: d.axis, line_color: colour("soft"), line_width: 1 });
    const over = thresholdLine
      ? new Bokeh.Slope({ gradient: 1, y_intercept: d.steps[d.at], line_color: colour("text"),
          line_dash: [5, 4] })
      : null;
    if (over) figure.add_layout(over);
    if (dense) {
      const density = source(cells(d, x, y, there));
      const high = Math.max(...density.data.count);
      const Mapper = log ? Bokeh.LogColorMapper : Bokeh.LinearColorMapper;
      const palette = shades("other", 0.3);
      const mapper = new Mapper({ palette, low: log ? 1 : 0, high });
      const rects = figure.rect({ x: { field: "x" }, y: { field: "y" }, width: d.bin / 2,
        height: d.bin / 2, source: density, fill_color: { field: "count", transform: mapper },
        line_color: null });
      rects.name = "density";
      hover(figure, [rects], [["neurons here", "@count{0,0}"]]);
    }
    const columns = () => {
      const drawn = dots(d, x, y).drawn;
      return {
        x: drawn.map((i) => x[i]), y: drawn.map((i) => y[i]), i: drawn,
        name: drawn.map((i) => neuronName(d, i)),
        match: drawn.map((i) => matchName(d, d.matchLayer[i], d.matchNeuron[i])),
        r: drawn.map((i) => signed(d.r[i])), baseline: drawn.map((i) => signed(d.baseline[i])),
        excess: drawn.map((i) => signed(d.excess[i])),
        colour: drawn.map((i) => colour(isFlagged(d, i) ? "accent" : "other")),
      };
    };
    const data = source(columns());
    const points = figure.scatter({ x: { field: "x" }, y: { field: "y" }, source: data,
      size: dense ? 3 : 6, fill_color: { field: "colour" }, fill_alpha: dense ? 0.5 : 0.75,
      line_color: dense ? null : colour("page"), line_width: 0.5,
      hover_line_color: colour("text") });
    const rows = [["neuron", "@name"], ["match", "@match"], ["r", "@r"]];
    if (d.hasExcess) rows.push(["baseline", "@baseline"], ["excess", "@excess"]);
    hover(figure, [points], rows);
    if (onBrush) {
      brush(figure, "both", (g) => onBrush({ x: [Math.min(g.x0, g.x1), Math.max(g.x0, g.x1)],
        y: [Math.min(g.y0, g.y1), Math.max(g.y0, g.y1)] }));
    }
    show(figure, element);
    return { dense, data, figure, update: () => {
      data.data = columns();
      if (over) over.y_intercept = d.steps[d.at];
    } };
  }

  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `12px ${AS_TEXT}`;
  const widthOf = (text) => pen.measureText(text).width;

  // Names of layers without the words that all begin or end with, and so short that they leave room.
  function labels(names, pixels) {
    const words = names.map((name) => middle(name, 400).match(/[\p{L}\p{N}]+|[^\p{L}\p{N}]/gu) ?? [""]);
    const common = (lists) => {
      const most = Math.min(...lists.map((list) => list.length - 1));
      let same = 0;
      while (same < most && lists.every((list) => list[same] === lists[0][same])) same += 1;
      return same;
    };
    const long = names.length > 1 && Math.max(...names.map(widthOf)) > pixels;
    const first = long ? common(words) : 0;
    const rest = words.map((list) => list.slice(first));
    const last = long ? common(rest.map((list) => [...list].reverse())) : 0;
    return rest.map((list) => {
      const name = (first ? "…" : "") + list.slice(0, list.length - last).join("") + (last ? "…" : "");
      let most = 40;
      while (most > 3 && widthOf(middle(name, most)) > pixels) most -= 1;
      return middle(name, most);
    });
  }

  // Ticks at some of the names, turned where they would touch each other otherwise.
  function nameTicks(axis, names, { pixels, room, turned }) {
    const found = labels(names, pixels);
    const widest = Math.max(...found.map(widthOf)) + 10;
    const turn = turned && widest * names.length > room;
    const step = Math.max(1, Math.ceil((names.length * (turn || !turned ? 17 : widest)) / room));
    const at = names.map((_, k) => k).filter((k) => k % step === 0);
    axis.ticker = new Bokeh.FixedTicker({ ticks: at });
    axis.major_label_overrides = new Map(at.map((k) => [k, found[k]]));
    if (turn) axis.major_label_orientation = 0.9;
  }

  // Universal neurons of each layer as bars, chance and controls as dots on a line.
  function layersChart(element, d, top) {
    const numbers = () => {
      const found = counted(d);
      return { x: d.layers.map((_, k) => k), universal: found.universal,
        chance: found.chance ?? d.layers.map(() => NaN), name: d.layers.map((name) => middle(name)),
        chanceText: d.layers.map((_, k) => (found.chance ? oneDigit(found.chance[k]) : "–")),
        control: d.layersByControl.map((x) => x ?? NaN),
        controlText: d.layersByControl.map((x) => (x == null ? "–" : oneDigit(x))) };
    };
    const now = numbers();
    const data = source(now);
    const known = [...now.universal, ...now.chance, ...now.control].filter((x) => !Number.isNaN(x));
    const figure = chart({ x_range: [-0.6, d.layers.length - 0.4], height: 300,
      y_range: [0, (top ?? Math.max(1, ...known)) * 1.08], y_axis_label: "neurons" });
    figure.left[0].ticker.setv({ min_interval: 1 });
    const room = element.clientWidth - 80;
    nameTicks(figure.below[0], d.layers, { pixels: 100, room, turned: true });
    const x = { field: "x" };
    const columns = figure.vbar({ x, top: { field: "universal" },
      width: d.layers.length < 4 ? 0.35 : 0.7, source: data, fill_color: colour("accent"), line_color: null });
    for (const [name, tone] of [["chance", "chance"], ["control", "control"]]) {
      figure.line({ x, y: { field: name }, source: data, line_color: colour(tone), line_width: 1.5 });
      figure.scatter({ x, y: { field: name }, source: data, size: 7, fill_color: colour(tone),
        line_color: colour("page") });
    }
    hover(figure, [columns], [["layer", "@name"], ["universal", "@universal{0,0}"],
      ["by chance", "@chanceText"], ["by control", "@controlText"]]);
    show(figure, element);
    return { figure, data, update: () => {
      data.data = numbers();
      const values = [...data.data.universal, ...data.data.chance, ...data.data.control];
      figure.y_range.end = (top ?? Math.max(1, ...values.filter((v) => !Number.isNaN(v)))) * 1.08;
    } };
  }

  // What a cell of the map shows: a count, and its ratio to what the totals of row and column give.
  function heatCells(table, kind) {
    const counts = table[kind];
    const rowTotal = table.all.map((row) => row.reduce((a, b) => a + b, 0));
    const columnTotal = table.columns.map((_, j) => table.all.reduce((sum, row) => sum + row[j], 0));
    const all = rowTotal.reduce((a, b) => a + b, 0);
    const chosen = counts.flat().reduce((a, b) => a + b, 0);
    return counts.flatMap((row, i) => row.map((count, j) => {
      const expected = all ? (((rowTotal[i] * columnTotal[j]) / all) * chosen) / all : 0;
      return { i, j, count, ratio: expected ? count / expected : NaN };
    }));
  }

  function heatMap(element, table, { kind, as, onCell }) {
    const found = heatCells(table, kind);
    const value = (cell) => (as === "ratio" ? cell.ratio : cell.count);
    const high = Math.max(...found.map(value).filter((x) => !Number.isNaN(x)), 1e-9);
    const palette = shades(kind === "all" ? "other" : "accent", 0.04);
    const tone = (x) => (Number.isNaN(x) ? 0 : Math.round((63 * x) / high));
    const luminance = (hex) => {
      const [r, g, b] = hex.match(/[0-9a-f]{2}/gi).map((x) => (parseInt(x, 16) / 255) ** 2.2);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const names = { rows: table.rows, columns: table.columns };
    const few = names.rows.length <= 12 && names.columns.length * 48 <= element.clientWidth - 120;
    const text = (cell) => (as === "ratio" ? (Number.isNaN(cell.ratio) ? "–" : cell.ratio.toFixed(2))
      : whole(cell.count));
    const data = source({
      x: found.map((c) => c.j), y: found.map((c) => c.i), value: found.map(value),
      colour: found.map((c) => palette[tone(value(c))]), text: found.map(text),
      ink: found.map((c) => (luminance(palette[tone(value(c))]) > 0.18 ? "#111111" : "#ffffff")),
      row: found.map((c) => middle(names.rows[c.i])), column: found.map((c) => middle(names.columns[c.j])),
      count: found.map((c) => c.count), ratio: found.map((c) => (Number.isNaN(c.ratio) ? "–" : c.ratio.toFixed(2))),
    });
    const height = Math.min(520, Math.max(260, 130 + 26 * names.rows.length));
    const figure = chart({ x_range: [-0.5, names.columns.length - 0.5],
      y_range: [names.rows.length - 0.5, -0.5], height,
      x_axis_label: "layer of the match", y_axis_label: "layer of A" });
    const pixels = Math.min(110, element.clientWidth / 4);
    const widest = Math.max(...labels(names.rows, pixels).map(widthOf));
    const room = element.clientWidth - widest - 70;
    nameTicks(figure.below[0], names.columns, { pixels, room, turned: true });
    nameTicks(figure.left[0], names.rows, { pixels, room: height - 130, turned: false });
    for (const grid of figure.center) grid.grid_line_color = null;
    const at = { x: { field: "x" }, y: { field: "y" }, source: data };
    const rects = figure.rect({ ...at, width: 0.96, height: 0.94, fill_color: { field: "colour" },
      line_color: null });
    if (few) {
      figure.text({ ...at, text: { field: "text" }, text_color: { field: "ink" }, text_align: "center",
        text_baseline: "middle", text_font: AS_TEXT, text_font_size: "13px" });
    }
    hover(figure, [rects], [["A", "@row"], ["match in", "@column"], ["neurons", "@count{0,0}"],
      ["ratio", "@ratio"]]);
    figure.on_event("tap", (event) => {
      const [i, j] = [Math.round(event.y), Math.round(event.x)];
      if (names.rows[i] !== undefined && names.columns[j] !== undefined) onCell(i, j);
    });
    show(figure, element);
    return { figure, data };
  }

  return { histogram, cloud, layersChart, heatMap, bars, shown };
})());
