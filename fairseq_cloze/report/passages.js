// -- passages: what is looked at -------------------------------------------------------------------------------------

const FILTERS = [["all", "All"], ["wrong", "Wrong"], ["uncertain", "Uncertain"], ["differ", "Runs disagree"]];
const state = { set: 0, file: 0, filter: "all", below: 0.5, search: "", order: "given", passage: 0, blank: null };

const theSet = () => data.sets[state.set];
const theFile = () => theSet().files[state.file];
const idOf = (passage) => theSet().passages[passage][0];
const goldOf = (passage) => theSet().passages[passage][1];
const textOf = (passage) => theSet().passages[passage][2];
const optionsOf = (passage, blank) => (theSet().texts ? theSet().passages[passage][3][blank] : null);
const optionText = (text) => (text === "" ? "(nothing)" : text);

/** The text of an option, or its letter where texts are not known. */
function nameOf(passage, blank, letter) {
  const options = optionsOf(passage, blank);
  return options ? optionText(options[LETTERS.indexOf(letter)]) : letter;
}

/** Whether a file's answer is right; null where that is not known. */
function isRight(file, passage, blank) {
  const gold = goldOf(passage)[blank];
  return gold === "-" ? null : file.answers[passage][blank] === gold;
}

/** Probability of the given answer; null where there are none. */
function sureness(file, passage, blank) {
  if (!file.probabilities) return null;
  return file.probabilities[passage][blank][LETTERS.indexOf(file.answers[passage][blank])] / 1000;
}

const filesDiffer = (passage, blank) => new Set(theSet().files.map((file) => file.answers[passage][blank])).size > 1;

function passes(passage, blank) {
  if (state.filter === "wrong") return isRight(theFile(), passage, blank) === false;
  if (state.filter === "uncertain") return theFile().probabilities !== null && sureness(theFile(), passage, blank) < state.below;
  if (state.filter === "differ") return filesDiffer(passage, blank);
  return true;
}

/** Passages that are listed, in order, with their figures. */
function listed() {
  const search = state.search.trim().toLowerCase();
  const rows = [];
  theSet().passages.forEach((entry, passage) => {
    if (search && !entry[0].toLowerCase().includes(search)) return;
    let right = 0, labelled = 0, through = 0, sure = 0;
    for (let blank = 0; blank < entry[1].length; blank++) {
      const verdict = isRight(theFile(), passage, blank);
      if (verdict !== null) labelled++;
      if (verdict) right++;
      if (passes(passage, blank)) through++;
      sure += sureness(theFile(), passage, blank) || 0;
    }
    if (through > 0) rows.push({ passage, right, labelled, through, blanks: entry[1].length, sure: sure / entry[1].length });
  });
  if (state.order === "worst") rows.sort((a, b) => a.right / (a.labelled || 1) - b.right / (b.labelled || 1) || b.blanks - a.blanks);
  if (state.order === "unsure") rows.sort((a, b) => a.sure - b.sure);
  return rows;
}

// -- drawing ---------------------------------------------------------------------------------------------------------

const bar = el("div", { class: "bar", role: "toolbar", "aria-label": "Which passages and blanks" });
const status = el("p", { class: "mute small", role: "status" });
const list = el("ol", { class: "list", "aria-label": "Passages" });
const reading = el("article", { class: "reading", tabindex: "-1", "aria-label": "Passage" });
const panel = el("aside", { class: "blank", "aria-label": "Blank", "aria-live": "polite" });
let rows = [];

function segmented(label, names, chosen, choose) {
  return el("div", { class: "segmented", role: "group", "aria-label": label }, names.map(({ value, text, disabled, mark, title }) => el("button", {
    type: "button", "aria-pressed": String(value === chosen), disabled, title, "data-value": value, on: { click: () => choose(value) },
  }, mark, text)));
}

function drawBar() {
  const files = theSet().files;
  const why = {
    wrong: files[state.file].blanks ? null : "the right answers are not known",
    uncertain: files[state.file].probabilities ? null : "the prediction file has no probabilities",
    differ: files.length > 1 ? null : "needs two runs with predictions for the same passages",
  };
  const focused = bar.contains(document.activeElement) ? document.activeElement.dataset.value : null;
  const slider = el("input", {
    type: "range", min: "0.3", max: "1", step: "0.05", value: String(state.below), "data-value": "below",
    "aria-label": "Uncertain below this probability", on: { input: (event) => change({ below: Number(event.target.value), filter: "uncertain" }) },
  });
  bar.replaceChildren(...[
    data.sets.length > 1 && el("label", null, "Passages", el("select", { "data-value": "set", on: { change: (event) => change({ set: Number(event.target.value), file: 0, passage: null, filter: "all" }) } },
      data.sets.map((set, index) => el("option", { value: String(index), selected: index === state.set }, `${set.name} (${number(set.passages.length)})`)))),
    files.length > 1 && el("span", null, "Answers of ", segmented("Answers of", files.map((file, index) => ({
      value: index, text: file.label, mark: el("span", { class: "mark", css: { background: colour(file.run) } }) })), state.file, (file) => change({ file }))),
    segmented("Blanks", FILTERS.map(([value, text], index) => ({ value, text: `${text}`, disabled: Boolean(why[value]), title: why[value] || `key ${index + 1}` })), state.filter, (filter) => change({ filter })),
    !why.uncertain && el("label", null, "uncertain below", slider, el("output", null, percent(100 * state.below, 0))),
    el("label", null, "Order", el("select", { "data-value": "order", on: { change: (event) => change({ order: event.target.value }) } },
      [["given", "as given"], ["worst", "worst first"], ["unsure", "least sure first"]].map(([value, text]) => el("option", { value, selected: value === state.order }, text)))),
    el("input", { type: "search", id: "search", placeholder: "Search by id  /", "aria-label": "Search passages by id", value: state.search, "data-value": "search",
      on: { input: (event) => change({ search: event.target.value }) } }),
  ].filter(Boolean));
  if (focused !== null) for (const node of bar.querySelectorAll("[data-value]")) if (node.dataset.value === focused) node.focus();
  const search = byId("search");
  if (document.activeElement === search) search.setSelectionRange(search.value.length, search.value.length);
}

function drawList() {
  const through = rows.reduce((sum, row) => sum + row.through, 0);
  status.textContent = `${number(rows.length)} of ${plural(theSet().passages.length, "passage")}, ${number(through)} of ` +
    `${plural(theSet().passages.reduce((sum, entry) => sum + entry[1].length, 0), "blank")}`;
  list.replaceChildren(...rows.map((row) => {
    const score = row.labelled ? `${row.right}/${row.labelled}` : plural(row.blanks, "blank");
    const count = state.filter === "all" ? "" : ` \u00b7 ${row.through}`;
    return el("li", null, el("button", {
      type: "button", tabindex: "-1", "data-passage": row.passage, on: { click: () => change({ passage: row.passage, blank: null }) },
      "aria-label": `${idOf(row.passage)}, ${row.labelled ? `${row.right} of ${row.labelled} right` : score}${count ? `, ${row.through} match the filter` : ""}`,
    }, el("span", { class: "name" }, idOf(row.passage)), el("span", { class: "score" }, score, count && el("span", { class: "mute" }, count)),
    el("span", { class: row.labelled ? "meter" : "meter unknown" }, row.labelled > 0 && el("i", { css: { width: `${(100 * row.right) / row.labelled}%` } }))));
  }));
  if (!rows.length) list.append(el("li", { class: "empty" }, "No passage has such a blank. Choose another filter, or clear the search."));
}

function markCurrent() {
  for (const button of list.querySelectorAll("[aria-current]")) { button.removeAttribute("aria-current"); button.tabIndex = -1; }
  const button = list.querySelector(`[data-passage="${state.passage}"]`);
  if (!button) return;
  button.setAttribute("aria-current", "true");
  button.tabIndex = 0;
  const top = button.offsetTop - list.offsetTop;
  if (top < list.scrollTop || top + button.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top - list.clientHeight / 3;
}

function chip(blank) {
  const passage = state.passage, file = theFile();
  const right = isRight(file, passage, blank), sure = sureness(file, passage, blank);
  const answer = nameOf(passage, blank, file.answers[passage][blank]);
  const gold = right === false ? nameOf(passage, blank, goldOf(passage)[blank]) : null;
  const verdict = right === null ? "not known whether right" : right ? "right" : `wrong, right is ${gold}`;
  const differ = filesDiffer(passage, blank);
  const classes = ["chip", right === null ? "unknown" : right ? "right" : "wrong", passes(passage, blank) ? "" : "dim", differ ? "differ" : ""];
  return el("button", {
    type: "button", class: classes.filter(Boolean).join(" "), "data-blank": blank, "aria-expanded": String(blank === state.blank),
    "aria-label": `blank ${blank + 1}: ${answer}, ${verdict}${sure === null ? "" : `, probability ${percent(100 * sure, 0)}`}${differ ? ", runs disagree" : ""}`,
    on: { click: () => change({ blank: state.blank === blank ? null : blank }) },
  }, el("sup", null, String(blank + 1)), `${signOf(right)} `, right === false ? [el("s", null, answer), " \u2192 ", el("span", { class: "gold" }, gold)] : answer);
}

function drawPassage() {
  if (state.passage === null) return reading.replaceChildren(el("p", { class: "mute" }, "No passage to show."));
  const blanks = goldOf(state.passage).length;
  const scores = theSet().files.map((file) => {
    const right = [...goldOf(state.passage)].filter((_, blank) => isRight(file, state.passage, blank)).length;
    return el("span", { class: "nowrap" }, theSet().files.length > 1 && [el("span", { class: "mark", css: { background: colour(file.run) } }), `${file.label}: `], `${right}/${blanks} right`);
  });
  const body = el("div", { class: "text" });
  if (theSet().texts) {
    textOf(state.passage).forEach((segment, index) => {
      body.append(segment);
      if (index < blanks) body.append(chip(index));
    });
  } else {
    for (let blank = 0; blank < blanks; blank++) body.append(chip(blank), " ");
  }
  reading.replaceChildren(
    el("header", null, el("h3", null, idOf(state.passage)), theFile().blanks > 0 && scores.map((score) => el("span", { class: "mute small" }, score))),
    ...(theSet().texts ? [] : [el("p", { class: "notice plain" }, theSet().why_not)]), body);
  return undefined;
}

function gauge(file, blank, option) {
  const letter = LETTERS[option], answered = file.answers[state.passage][blank] === letter;
  const p = file.probabilities ? file.probabilities[state.passage][blank][option] / 10 : null;
  const right = isRight(file, state.passage, blank);
  return el("div", { class: "gauge" },
    p === null ? el("span", null, "") : el("span", { "aria-hidden": "true" }, el("i", { css: { width: `${p}%`, background: colour(file.run) } })),
    el("span", null, p === null ? "" : percent(p)),
    el("span", { class: right === null ? "" : right ? "sign-right" : "sign-wrong" }, answered && [
      el("span", { "aria-hidden": "true" }, right === null ? "\u2190" : signOf(right)),
      el("span", { class: "hidden-text" }, `answered${right === null ? "" : right ? ", right" : ", wrong"}`)]));
}

function drawBlank() {
  const { passage, blank } = state;
  panel.classList.toggle("closed", blank === null);
  if (blank === null || passage === null) {
    return panel.replaceChildren(el("p", { class: "mute" }, "Choose a blank to see what every option got. ", el("kbd", null, "n"), " goes to the next one."));
  }
  const gold = goldOf(passage)[blank], files = theSet().files;
  const options = optionsOf(passage, blank);
  const known = files.find((file) => file.probabilities);
  const count = options ? options.length : known ? known.probabilities[passage][blank].length : Math.max(...files.map((file) => LETTERS.indexOf(file.answers[passage][blank])), LETTERS.indexOf(gold)) + 1;
  const lines = [];
  for (let option = 0; option < count; option++) {
    const isGold = LETTERS[option] === gold;
    lines.push(el("tr", { class: isGold ? "option gold" : "option" }, el("th", { scope: "row" },
      `${LETTERS[option]}  `, options && optionText(options[option]), isGold && " \u2605 right answer")));
    for (const file of files) {
      lines.push(el("tr", { class: isGold ? "gold" : null }, el("td", null,
        files.length > 1 && el("span", { class: "hidden-text" }, `${file.label}: `), gauge(file, blank, option))));
    }
  }
  const answers = el("ul", null, files.map((file) => {
    const right = isRight(file, passage, blank);
    return el("li", null, files.length > 1 && [el("span", { class: "mark", css: { background: colour(file.run) } }), `${file.label}: `],
      el("span", { class: right === null ? "" : right ? "sign-right" : "sign-wrong" }, `${signOf(right)} ${nameOf(passage, blank, file.answers[passage][blank])}`));
  }));
  panel.replaceChildren(
    el("header", null, el("h3", null, `Blank ${blank + 1} of ${goldOf(passage).length}`),
      el("button", { type: "button", class: "small", "aria-label": "Close the blank", on: { click: () => change({ blank: null }) } }, "\u2715")),
    answers,
    el("table", { class: "options" }, el("tbody", null, lines)),
    ...(gold === "-" ? [el("p", { class: "mute small" }, "The right answer is not known.")] : []),
    ...(files.every((file) => !file.probabilities) ? [el("p", { class: "mute small" }, "The prediction file has no probabilities; write it with 'fairseq-cloze predict --scores' or 'fairseq-cloze evaluate --predictions'.")] : []));
  return undefined;
}

// -- changes ---------------------------------------------------------------------------------------------------------

/** Change what is looked at and draw what depends on it. */
function change(changes) {
  Object.assign(state, changes);
  const names = Object.keys(changes);
  const selects = names.some((name) => ["set", "file", "filter", "below", "search", "order"].includes(name));
  const before = state.passage;
  if (selects) {
    rows = listed();
    if (!rows.some((row) => row.passage === state.passage)) state.passage = rows.length ? rows[0].passage : null;
    drawBar();
    drawList();
  }
  if (state.passage !== before || names.includes("passage")) {
    if (!names.includes("blank")) state.blank = null;
    reading.scrollTop = 0;
  }
  const focused = reading.contains(document.activeElement);
  markCurrent();
  drawPassage();
  drawBlank();
  if (focused || names.includes("focus")) {
    const button = reading.querySelector(`[data-blank="${state.blank}"]`);
    if (button) { button.focus({ preventScroll: true }); button.scrollIntoView({ block: "nearest" }); } else if (focused) reading.focus({ preventScroll: true });
  }
}

function stepPassage(by) {
  if (!rows.length) return;
  const now = rows.findIndex((row) => row.passage === state.passage);
  const next = rows[Math.min(Math.max(now + by, 0), rows.length - 1)];
  if (next.passage !== state.passage) change({ passage: next.passage, blank: null });
}

/** Go to the next blank that passes, in this passage or another one. */
function stepBlank(by) {
  const start = rows.findIndex((row) => row.passage === state.passage);
  for (let at = start; at >= 0 && at < rows.length; at += by) {
    const passage = rows[at].passage, count = rows[at].blanks;
    let blank = at === start && state.blank !== null ? state.blank + by : by > 0 ? 0 : count - 1;
    if (at === start && state.blank === null && by < 0) continue;
    for (; blank >= 0 && blank < count; blank += by) if (passes(passage, blank)) return change({ passage, blank, focus: true });
  }
  return undefined;
}

const KEYS = {
  j: () => stepPassage(1), k: () => stepPassage(-1), n: () => stepBlank(1), p: () => stepBlank(-1),
  r: () => change({ file: (state.file + 1) % theSet().files.length }),
  "/": () => byId("search").focus(),
  Escape: () => state.blank !== null && change({ blank: null }),
};
FILTERS.forEach(([filter], index) => {
  KEYS[index + 1] = () => { const button = bar.querySelector(`[data-value="${filter}"]`); if (!button.disabled) change({ filter }); };
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || byId("help").open) return;
  const typing = event.target.matches("input[type=search], select");
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const common = { "?": () => byId("help").showModal(), t: toggleTheme };
  const act = common[event.key] || (data.sets.length ? KEYS[event.key] : null);
  if (!act) return;
  event.preventDefault();
  act();
});

list.addEventListener("keydown", (event) => {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  stepPassage(by);
  const button = list.querySelector("[aria-current]");
  if (button) button.focus();
});

if (data.sets.length) {
  show("passages", bar, status, el("div", { class: "viewer" }, list, reading, panel));
  // What is above is painted first.
  requestAnimationFrame(() => setTimeout(() => change({ set: 0, blank: null }), 0));
} else {
  show("passages", el("p", { class: "mute" }, "No prediction file was found. Write one with 'fairseq-cloze evaluate --predictions' and give it as RUN."));
}
