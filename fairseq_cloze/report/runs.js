// -- notices ---------------------------------------------------------------------------------------------------------

data.runs.forEach((run) => {
  for (const notice of run.notices) {
    const causes = notice.causes.filter((line) => /^\d+\. /.test(line));
    const others = notice.causes.filter((line) => !/^\d+\. /.test(line));
    show("notices", el("div", { class: "notice", role: "note" },
      el("strong", null, `${run.label}: ${notice.at_chance ? "at chance" : "was at chance for a while"}`),
      el("p", null, notice.text),
      causes.length > 0 && el("ol", null, causes.map((line) => el("li", null, line.replace(/^\d+\. /, "")))),
      others.map((line) => el("p", { class: "small" }, line))));
  }
});

// -- the table -------------------------------------------------------------------------------------------------------

const unknown = () => el("span", { class: "mute" }, "not known");
const none = () => el("span", { class: "mute" }, el("span", { "aria-hidden": "true" }, "\u2013"), el("span", { class: "hidden-text" }, "none"));
const range = ([low, high]) => `${low.toFixed(1)} to ${high.toFixed(1)}`;

function validCell(valid) {
  if (!valid) return unknown();
  const split = valid.split === "predictions" ? "" : `${valid.split}, `;
  const blanks = valid.blanks === null ? "blanks not known" : plural(valid.blanks, "blank");
  return [el("span", { class: "big" }, percent(valid.accuracy)),
    valid.interval && el("div", { class: "small" }, "95%: ", range(valid.interval)),
    el("div", { class: "mute small" }, split + blanks),
    valid.update !== null && el("div", { class: "mute small" }, `at update ${number(valid.update)}`)];
}

/** What answers come from, under the name of a run: its checkpoint, and the training's own row where there is one. */
function sourceLine(source) {
  return el("div", { class: "mute small" }, source.name,
    source.run !== null && [" of ", el("a", { href: `#run-${source.run}` }, data.runs[source.run].label)]);
}

function runRow(run, index) {
  const atChance = run.notices.some((notice) => notice.at_chance);
  const best = index === data.best;
  const cell = (title, name, value, className = "") => {
    const missing = value === null && run.none.includes(name);
    return el("td", { class: missing ? `${className} none` : className, "data-title": title }, missing ? none() : value === null ? unknown() : value);
  };
  return el("tr", { class: best ? "best" : null, id: `run-${index}` },
    el("th", { scope: "row" },
      el("span", { class: "mark", css: { background: colour(index) } }), run.label, " ",
      best && el("span", { class: "tag good" }, "\u2605 best"), atChance && el("span", { class: "tag bad" }, "\u26a0 at chance"),
      run.sources.slice(0, 3).map(sourceLine), run.sources.length > 3 && el("div", { class: "mute small" }, `and ${run.sources.length - 3} more`)),
    run.known ? [
      cell("Model", "model", run.model && breakable(run.model)),
      cell("Data format", "format", run.format),
      cell("Updates", "updates", run.none.includes("updates") || run.updates === null ? null : number(run.updates), "number"),
      cell("LR", "lr", run.lr),
      cell("Batch", "batch", run.batch),
      cell("Best train", "train", run.train && [
        el("span", { class: "big" }, percent(run.train.accuracy)),
        el("div", { class: "mute small" }, run.train.of), el("div", { class: "mute small" }, `at update ${number(run.train.update)}`)], "number"),
    ] : el("td", { class: "mute", colspan: "6" }, "The prediction file does not say which model answered."),
    cell("Accuracy", "valid", [validCell(run.valid), run.others.map((other) => el("div", { class: "mute small" },
      `${other.split} ${percent(other.accuracy)}`, other.interval && ` (${range(other.interval)})`))], "number accuracy"),
    cell("Chance", "chance", run.valid && run.valid.chance !== null ? percent(run.valid.chance) : null, "number chance"));
}

/** All that is known of where a run's figures come from. */
function provenance(run, index) {
  const term = (name, ...value) => [el("dt", null, name), el("dd", null, ...value)];
  return [el("h3", null, el("span", { class: "mark", css: { background: colour(index) } }), run.label), el("dl", null,
    run.sources.map((source) => [
      term(source.split ? `Checkpoint (${source.split})` : "Checkpoint", source.path,
        source.weight !== 1 && el("div", { class: "mute" }, `weight ${source.weight} in the average`),
        source.updates ? el("div", { class: "mute" }, `after ${plural(source.updates, "update")}`) : null,
        source.digest && el("div", { class: "mute" }, "digest ", el("code", null, source.digest))),
      source.data && term("Passages", source.data),
      source.logs.length > 0 && term("Log", source.logs.map((log) => el("div", null, log)))]),
    term("Read", run.files.map((file) => el("div", null, file))))];
}

const TITLES = ["Run", "Model", "Data format", "Updates", "LR", "Batch", "Best train", "Accuracy", "Chance"];
const runNotes = data.runs.flatMap((run) => run.notes.map((note) => el("li", null, `${run.label}: ${note}`)));
show("runs", el("div", { class: "wide" }, el("table", { class: "runs" },
  el("thead", null, el("tr", null, TITLES.map((title, column) => el("th", { scope: "col", class: [3, 6, 7, 8].includes(column) ? "number" : null }, title)))),
  el("tbody", null, data.runs.map(runRow)))));

// -- differences -----------------------------------------------------------------------------------------------------

const MINUS = "\u2212";
const signed = (value) => `${Math.abs(value) < 0.05 ? "" : value < 0 ? MINUS : "+"}${Math.abs(value).toFixed(1)}`;
const VERDICTS = {
  better: ["good", "\u2713 better, hardly by luck"], worse: ["bad", "\u2717 worse, hardly by luck"], luck: ["", "may be luck"], same: ["", "as many right"],
};

/** Every file that was compared, and a table of the others against one of them. */
function differenceTable() {
  const key = ({ run, label }) => `${run} ${label}`;
  const files = new Map(data.differences.flatMap(({ a, b }) => [[key(a), a], [key(b), b]]));
  const names = [...files.keys()].sort((a, b) => parseInt(a, 10) - parseInt(b, 10));
  const name = ({ run, label }) => [el("span", { class: "mark", css: { background: colour(run) } }), label];
  const body = el("tbody");

  function draw(against) {
    const mine = data.differences.filter(({ a, b }) => key(a) === against || key(b) === against);
    body.replaceChildren(...mine.map((one) => {
      const turned = key(one.b) === against;
      const other = turned ? one.a : one.b;
      const by = turned ? -one.difference : one.difference;
      const [low, high] = turned ? [-one.interval_high, -one.interval_low] : [one.interval_low, one.interval_high];
      const [className, verdict] = VERDICTS[turned ? { better: "worse", worse: "better" }[one.verdict] || one.verdict : one.verdict];
      return el("tr", null, el("th", { scope: "row" }, name(other)),
        el("td", { class: "big number" }, signed(by)),
        el("td", { class: "number" }, `95%: ${signed(low)} to ${signed(high)}`),
        el("td", null, el("span", { class: `tag ${className}` }, verdict)),
        el("td", { class: "mute small" }, `p ${one.p < 0.0001 ? "< 0.0001" : `= ${one.p.toFixed(one.p < 0.01 ? 4 : 2)}`}, ${plural(one.blanks, "blank")} in ${plural(one.passages, "passage")}`));
    }));
  }
  draw(names[0]);
  const choice = names.length > 2
    ? el("select", { "aria-label": "Compare with", on: { change: (event) => draw(event.target.value) } }, names.map((one) => el("option", { value: one }, files.get(one).label)))
    : name(files.get(names[0]));
  return [el("h3", { class: "gap" }, "Compared with ", choice),
    el("div", { class: "wide" }, el("table", { class: "differences" }, el("caption", { class: "hidden-text" }, "Differences of accuracy in points"), body)),
    el("p", { class: "mute small" }, "Points of accuracy on the blanks that both answered. \u201cMay be luck\u201d: two equally good models would differ as much in 5% of comparisons or more (sign-flip test over passages).")];
}

if (data.differences.length) show("runs", ...differenceTable());
for (const note of data.notes) runNotes.push(el("li", null, note));
if (runNotes.length) show("runs", el("ul", { class: "notes" }, runNotes));
show("runs", el("details", { class: "provenance" }, el("summary", null, "Checkpoints, logs and files"), data.runs.map(provenance)));

// -- curves ----------------------------------------------------------------------------------------------------------

/** Round numbers between two ends, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => one >= rough * 0.999);
  const found = [];
  for (let tick = Math.ceil(low / step - 1e-9); tick * step <= high + step * 1e-9; tick++) found.push(Number((tick * step).toPrecision(12)));
  return found;
}

function rangeOf(values, extra, metric) {
  let low = Math.min(...values, ...extra), high = Math.max(...values, ...extra);
  if (metric === "loss" && values.length > 8) {  // a burst must not flatten all the rest
    const sorted = [...values].sort((a, b) => a - b);
    const usual = Math.max(sorted[Math.floor(0.9 * (sorted.length - 1))], ...extra);
    high = Math.min(high, usual + 0.5 * (usual - low));
  }
  const room = 0.06 * (high - low) || Math.abs(high) * 0.1 || 1;
  low -= room;
  high += room;
  return metric === "accuracy" ? [Math.max(low, 0), Math.min(high, 100)] : [Math.max(low, 0), high];
}

const hiddenRuns = new Set();
const charts = [];

function makeChart(metric, title) {
  const all = data.runs.flatMap((run, index) => run.curves[metric].map((curve) => ({ ...curve, run: index, label: run.label })));
  if (!all.length) return null;
  const drawing = svg("svg", { role: "img", tabindex: "0", "aria-label": `${title} over updates, a curve per run; arrow keys read it out` });
  const readout = el("div", { class: "readout", hidden: true, "aria-live": "polite" });
  const node = el("figure", { class: "chart" }, el("figcaption", null, title), drawing, readout);
  const levels = metric === "accuracy"
    ? [[data.human.value, `${data.human.name} ${data.human.value}%`], [data.levels.chance, `chance ${data.levels.chance}%`]]
    : [[data.levels.loss, `guessing ${data.levels.loss === null ? "" : data.levels.loss.toFixed(3)}`]];
  let place = null;  // the update that is read out

  function draw() {
    const width = Math.max(drawing.clientWidth, 260), height = 300;
    const box = { left: 46, right: width - 22, top: 12, bottom: height - 36 };
    const shown = all.filter((curve) => !hiddenRuns.has(curve.run));
    const values = shown.flatMap((curve) => curve.points.map((point) => point[1]));
    const last = Math.max(1, ...shown.flatMap((curve) => curve.points.map((point) => point[0])));
    const drawn = levels.filter(([value]) => value !== null);
    const band = metric === "accuracy" && data.levels.low !== null ? [data.levels.low, data.levels.high] : [];
    const [low, high] = rangeOf(values.length ? values : [0, 1], [...drawn.map(([value]) => value), ...band], metric);
    const x = (update) => box.left + (update / last) * (box.right - box.left);
    const y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);
    const parts = [];
    for (const tick of ticks(low, high, 6)) {
      parts.push(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }),
        svg("text", { x: box.left - 7, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
    }
    for (const tick of ticks(0, last, Math.max(3, Math.floor(width / 110))).filter(Number.isInteger)) {
      parts.push(svg("text", { x: x(tick), y: box.bottom + 17, "text-anchor": "middle" }, number(tick)));
    }
    parts.push(svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
      svg("text", { x: box.right, y: height - 3, "text-anchor": "end" }, "updates"));
    if (band.length) {
      parts.push(svg("rect", { class: "band", x: box.left, width: box.right - box.left, y: y(band[1]), height: y(band[0]) - y(band[1]) }));
    }
    for (const [value] of drawn) parts.push(svg("line", { class: "level", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }));
    const inside = svg("g", { "clip-path": `url(#clip-${metric})` });
    for (const curve of shown) {
      const stroke = { stroke: colour(curve.run) };
      const at = curve.points.map(([update, value]) => [x(update), y(value)]);
      if (curve.kind !== "watch") {
        const path = at.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join(" ");
        inside.append(svg("polyline", { class: `line ${curve.kind}`, points: path, css: stroke }));
      }
      if (curve.kind === "watch") {
        for (const [px, py] of at) inside.append(svg("path", { d: `M${px},${py - 4.5}l4.5,4.5l-4.5,4.5l-4.5,-4.5z`, css: { fill: colour(curve.run) } }));
      } else if (at.length === 1 || (curve.kind === "valid" && at.length <= 60)) {
        for (const [px, py] of at) inside.append(svg("circle", { class: "dot", cx: px, cy: py, r: 3.4, css: stroke }));
      }
    }
    const clip = svg("clipPath", { id: `clip-${metric}` },
      svg("rect", { x: box.left - 5, y: box.top - 5, width: box.right - box.left + 10, height: box.bottom - box.top + 10 }));
    parts.push(svg("defs", null, clip), inside);
    for (const [value, name] of drawn) {
      const below = name.startsWith("chance");  // a run at chance is rather above the line
      parts.push(svg("text", { class: "halo", x: box.right, y: y(value) + (below ? 14 : -5), "text-anchor": "end" }, name));
    }
    if (values.some((value) => value > high)) {
      parts.push(svg("text", { class: "halo", x: box.left + 4, y: box.top + 6 }, `\u2191 up to ${figure(Math.max(...values), metric)}`));
    }
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.replaceChildren(...parts);
    readout.hidden = place === null;
    if (place === null) return;
    const updates = [...new Set(shown.flatMap((curve) => curve.points.map((point) => point[0])))].sort((a, b) => a - b);
    if (!updates.length) return;
    const at = updates.reduce((best, update) => (Math.abs(update - place) < Math.abs(best - place) ? update : best));
    drawing.append(svg("line", { class: "axis", x1: x(at), x2: x(at), y1: box.top, y2: box.bottom }));
    const rows = shown.map((curve) => {
      const near = curve.points.reduce((best, point) => (Math.abs(point[0] - at) <= Math.abs(best[0] - at) ? point : best));
      const away = near[0] === at ? "" : ` at ${number(near[0])}`;
      return Math.abs(near[0] - at) <= 0.1 * last && el("div", null, el("span", { class: "mark", css: { background: colour(curve.run) } }),
        `${data.runs.length > 1 ? `${curve.label}, ` : ""}${curve.name}${away}`, el("b", null, figure(near[1], metric)));
    }).filter(Boolean);
    readout.replaceChildren(el("div", null, el("strong", null, `update ${number(at)}`)), ...rows);
    const share = x(at) / width;
    readout.style.left = share < 0.5 ? `${100 * share + 2}%` : "auto";
    readout.style.right = share < 0.5 ? "auto" : `${100 * (1 - share) + 2}%`;
    place = at;

    drawing.step = (by) => {
      const now = updates.indexOf(at);
      place = updates[Math.min(Math.max(now + by, 0), updates.length - 1)];
      draw();
    };
  }

  function readAt(event) {
    const bounds = drawing.getBoundingClientRect();
    const updates = all.flatMap((curve) => (hiddenRuns.has(curve.run) ? [] : curve.points.map((point) => point[0])));
    place = Math.max(0, ((event.clientX - bounds.left - 46) / (bounds.width - 68)) * Math.max(1, ...updates));
    draw();
  }
  const leave = () => { place = null; draw(); };
  fill(drawing, { on: {
    pointermove: readAt, pointerdown: readAt, blur: leave,
    pointerleave: (event) => { if (event.pointerType === "mouse") leave(); },
    keydown: (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      if (place === null) { place = by > 0 ? 0 : Number.MAX_SAFE_INTEGER; draw(); } else drawing.step(by);
    },
  } }, []);
  charts.push(draw);
  new ResizeObserver(() => draw()).observe(node);
  return node;
}

function legend() {
  const keyOf = (shape, text) => el("span", { class: "key" }, svg("svg", { width: 30, height: 12, "aria-hidden": "true" }, shape), text);
  const kinds = new Set(data.runs.flatMap((run) => Object.values(run.curves).flat().map((curve) => curve.kind)));
  const ink = { stroke: "var(--mute)" };
  const smooth = data.runs.some((run) => run.curves.loss.some((curve) => curve.name.includes("running mean")));
  return el("div", { class: "legend" },
    data.runs.map((run, index) => run.curves.loss.length + run.curves.accuracy.length === 0 ? null : el("button", {
      type: "button", "aria-pressed": "true", title: "show or hide",
      on: { click: (event) => {
        const hide = !hiddenRuns.has(index);
        if (hide) hiddenRuns.add(index); else hiddenRuns.delete(index);
        event.currentTarget.setAttribute("aria-pressed", String(!hide));
        charts.forEach((draw) => draw());
      } },
    }, el("span", { class: "mark", css: { background: colour(index) } }), run.label)),
    kinds.has("train") && keyOf(svg("line", { class: "line train", x1: 0, x2: 30, y1: 6, y2: 6, css: ink }), `training${smooth ? " (running mean)" : ""}`),
    kinds.has("valid") && keyOf([svg("line", { class: "line", x1: 0, x2: 30, y1: 6, y2: 6, css: ink }), svg("circle", { class: "dot", cx: 15, cy: 6, r: 3.4, css: ink })], "validation"),
    kinds.has("watch") && keyOf(svg("path", { d: "M15,1.5l4.5,4.5l-4.5,4.5l-4.5,-4.5z", css: { fill: "var(--mute)" } }), "checkpoint scored by watch"),
    data.levels.low !== null && kinds.size > 0 && keyOf(svg("rect", { class: "band", x: 2, y: 1, width: 26, height: 10 }), "95% of guesses"));
}

const chartNodes = [makeChart("loss", "Loss, nats per blank"), makeChart("accuracy", "Accuracy, % of blanks")].filter(Boolean);
if (chartNodes.length) show("curves", legend(), el("div", { class: "charts" }, chartNodes));
else show("curves", el("p", { class: "mute" }, "No run has a log or a validation.jsonl, so there are no curves. Give a save-dir or a log as RUN."));

// -- errors ----------------------------------------------------------------------------------------------------------

function confusionTable(file) {
  const letters = file.confusion.map((_, index) => LETTERS[index]);
  return el("table", { class: "confusion" },
    el("caption", null, "Right answer (rows) by given answer (columns): blanks, and share of the row"),
    el("thead", null, el("tr", null, el("td", { css: { "--share": 0 } }), letters.map((letter) => el("th", { scope: "col" }, letter)))),
    el("tbody", null, file.confusion.map((row, gold) => {
      const total = row.reduce((sum, count) => sum + count, 0);
      return el("tr", null, el("th", { scope: "row" }, letters[gold]), row.map((count, answer) => {
        const share = total ? count / total : 0;
        return el("td", { class: gold === answer ? "diagonal" : null, css: { "--share": share } }, number(count), el("small", null, percent(100 * share, 0)));
      }));
    })));
}

function calibrationPlot(file) {
  const size = { left: 30, right: 182, top: 22, bottom: 138 };
  const x = (value) => size.left + (value / 100) * (size.right - size.left);
  const y = (value) => size.bottom - (value / 100) * (size.bottom - size.top);
  const blanks = file.calibration.reduce((sum, row) => sum + row[2], 0);
  const mean = file.calibration.reduce((sum, row) => sum + row[0] * row[2], 0) / blanks;
  const right = file.calibration.reduce((sum, row) => sum + row[1] * row[2], 0) / blanks;
  const most = Math.max(...file.calibration.map((row) => row[2]));
  const verdict = Math.abs(mean - right) < 2 ? "about as sure as it is right" : mean > right ? "surer than it is right" : "righter than it is sure";
  return el("figure", { class: "calibration" },
    el("figcaption", null, `Calibration: ${verdict} (mean probability ${percent(mean)}, right ${percent(right)})`),
    svg("svg", { viewBox: "0 0 190 170", role: "img", "aria-label": "share of right answers by their probability" },
      [0, 50, 100].flatMap((tick) => [
        svg("line", { class: "grid", x1: x(0), x2: x(100), y1: y(tick), y2: y(tick) }),
        svg("text", { x: size.left - 5, y: y(tick) + 4, "text-anchor": "end" }, String(tick)),
        svg("text", { x: x(tick), y: size.bottom + 15, "text-anchor": tick === 100 ? "end" : "middle" }, String(tick))]),
      svg("text", { x: 0, y: 10 }, "right, %"),
      svg("text", { x: x(50), y: 167, "text-anchor": "middle" }, "probability, %"),
      svg("line", { class: "level", x1: x(0), x2: x(100), y1: y(0), y2: y(100) }),
      file.calibration.map(([p, share, count]) => svg("circle", { class: "point", cx: x(p), cy: y(share), r: 2.5 + 4 * Math.sqrt(count / most), css: { fill: colour(file.run) } },
        svg("title", null, `probability ${percent(p)}: ${percent(share)} of ${plural(count, "blank")} right`)))));
}

function groupTable(files, grouping) {
  const groups = [...new Set(files.flatMap((file) => Object.keys(file.breakdown[grouping] || {})))];
  const several = files.length > 1;
  return el("table", { class: "groups" },
    groups.map((group) => el("tbody", null, files.filter((file) => (file.breakdown[grouping] || {})[group]).map((file, row, among) => {
      const [accuracy, low, high, blanks] = file.breakdown[grouping][group];
      return el("tr", null,
        row === 0 && el("th", { scope: "rowgroup", rowspan: among.length }, group, el("div", { class: "mute small" }, plural(blanks, "blank"))),
        several && el("td", { class: "small" }, el("span", { class: "mark", css: { background: colour(file.run) } }), file.label),
        el("td", { class: "value" }, `${percent(accuracy)} `, el("span", { class: "mute small" }, `${low.toFixed(1)} to ${high.toFixed(1)}`)),
        el("td", { class: "track", "aria-hidden": "true" }, el("span", null,
          el("i", { css: { left: `${low}%`, width: `${high - low}%`, background: colour(file.run) } }),
          el("b", { css: { left: `${accuracy}%`, background: colour(file.run) } }))));
    }))));
}

function errorsOf(set) {
  const labelled = set.files.filter((file) => file.blanks > 0);
  const nodes = [];
  if (data.sets.length > 1) nodes.push(el("h3", null, set.name));
  if (!labelled.length) return [...nodes, el("p", { class: "mute" }, "The right answers are not known, so there is nothing to count.")];
  nodes.push(el("div", { class: "cards" }, labelled.map((file) => el("div", { class: "card" },
    el("h3", null, el("span", { class: "mark", css: { background: colour(file.run) } }), `${file.label}: ${percent((100 * file.right) / file.blanks)} `,
      el("span", { class: "mute small" }, `of ${plural(file.blanks, "blank")}, 95% interval ${file.interval[0].toFixed(1)} to ${file.interval[1].toFixed(1)}`)),
    el("div", { class: "side" }, el("div", { class: "wide" }, confusionTable(file)), file.calibration && calibrationPlot(file))))));
  const groupings = [...new Set(labelled.flatMap((file) => Object.keys(file.breakdown)))];
  if (groupings.length) {
    nodes.push(el("h3", null, "Accuracy by token class"), groupTable(labelled, "token class"),
      el("p", { class: "mute small" }, "Bars are 95% intervals (Wilson). A blank counts as multi-token if one of its options has more than one token."));
    nodes.push(el("details", null, el("summary", null, "By other groups"), groupings.filter((one) => one !== "token class").map((grouping) => [
      el("h3", { css: { "margin-top": "1rem" } }, `By ${grouping}`), groupTable(labelled, grouping)])));
  } else {
    nodes.push(el("p", { class: "mute small" }, "Accuracy by token class needs the data-bin of these passages: make the report again with --passages DATA-BIN."));
  }
  return nodes;
}

if (data.sets.length) data.sets.forEach((set) => show("errors", ...errorsOf(set)));
else show("errors", el("p", { class: "mute" }, "No prediction file was found, so single answers are not known. Write one with 'fairseq-cloze evaluate --predictions' and give it as RUN."));
