"use strict";

// Whatever comes from data enters the page as text nodes only.

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const LETTERS = Array.from({ length: 127 }, (_, index) =>
  (index < 26 ? "" : String.fromCharCode(64 + Math.floor(index / 26))) + String.fromCharCode(65 + index % 26));
const COLOURS = 7;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "css") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An element: name, attributes (`on`: listeners, `css`: style properties), children (nodes and strings). */
const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
const byId = (id) => document.getElementById(id);

const number = (value) => value.toLocaleString("en-US");
const percent = (value, digits = 1) => `${value.toFixed(digits)}%`;
const signOf = (right) => (right === null ? "?" : right ? "\u2713" : "\u2717");
const colour = (run) => `var(--run${run % COLOURS})`;
const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

/** A text with paths in it, which may be broken behind their slashes. */
const breakable = (text) => text.split(/(?<=\/)/).flatMap((part) => [part, el("wbr")]);

/** A stored figure: at least four digits for a loss, two decimals for a percentage. */
const figure = (value, metric) => (metric === "accuracy" ? percent(value, 2) : value.toPrecision(4));

function show(section, ...children) {
  byId(section).append(...children);
}

// -- light and dark --------------------------------------------------------------------------------------------------

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
let chosenTheme = null;

function setTheme() {
  const theme = chosenTheme || (prefersDark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "\u2600 Light" : "\u263e Dark";
  byId("theme").setAttribute("aria-label", theme === "dark" ? "Light colours" : "Dark colours");
}

function toggleTheme() {
  chosenTheme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  setTheme();
}

byId("theme").addEventListener("click", toggleTheme);
prefersDark.addEventListener("change", setTheme);
addEventListener("beforeprint", () => { document.documentElement.dataset.theme = "light"; });
addEventListener("afterprint", setTheme);
setTheme();

byId("help-open").addEventListener("click", () => byId("help").showModal());
byId("made").textContent =
  `${plural(data.runs.length, "run")} \u00b7 made ${data.made.replace("T", " ").replace("+00:00", " UTC")} ` +
  `by fairseq-cloze ${data.version}`;
document.title = `Cloze report: ${data.runs.map((run) => run.label).join(", ")}`;
