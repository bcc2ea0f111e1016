"use strict";
// The page is whole without this: it only turns the theme, lifts an algorithm out of the pictures, and leafs through
// the samples. Text from models is put into the page as text, never as markup.

const at = (id) => document.getElementById(id);

at("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

for (const chip of document.querySelectorAll(".legend button")) {
  chip.addEventListener("click", () => {
    const on = chip.getAttribute("aria-pressed") !== "true";
    for (const other of document.querySelectorAll(".legend button")) {
      other.setAttribute("aria-pressed", String(on && other.dataset.of === chip.dataset.of));
    }
    at("lifted").textContent = on
      ? `.pictures [class^="of-"]:not(.of-${chip.dataset.of}) { opacity: 0.1; }`
      : "";
  });
}

// --- samples ---------------------------------------------------------------------------------------------------------

const data = JSON.parse(at("samples-data").textContent);
const chosen = { task: "", kind: "answers", prompt: 0, colour: "ratio", found: [] };

const COLOURS = {
  none: { value: () => null, low: "", high: "" },
  ratio: { value: (s, i) => difference(s, i), low: "less likely than at the start", high: "more likely" },
  kl: {
    value: (s, i) => { const r = difference(s, i); return r === null ? null : Math.exp(-r) - 1 + r; },
    low: "", high: "KL of the token, k3 estimate, in nats",
  },
  advantage: { value: (s, i) => number(s.advantage, i), low: "worse than expected", high: "better" },
  logprob: { value: (s, i) => number(s.logprob, i), low: "unlikely, in nats", high: "" },
};

// A token's number; null where there is none, as for what others said between the policy's turns.
function number(column, i) {
  return column && column[i] !== null ? column[i] : null;
}

function difference(sample, i) {
  const now = number(sample.logprob, i), then = number(sample.reference, i);
  return now === null || then === null ? null : now - then;
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  for (const child of children) made.append(child);
  return made;
}

function fill(select, entries, value) {
  select.replaceChildren(...entries.map(([key, text]) => element("option", { value: key }, text)));
  select.value = String(value);
}

// The value that gets the full colour: nearly the largest of all that is shown, so that small changes are seen too.
function strongest(samples) {
  const value = COLOURS[chosen.colour].value;
  const sizes = samples
    .flatMap((s) => (s.tokens || []).map((_, i) => value(s, i)))
    .filter((v) => v !== null)
    .map(Math.abs)
    .sort((a, b) => a - b);
  return sizes.length ? Math.max(0.01, Number(sizes[Math.floor(0.98 * (sizes.length - 1))].toPrecision(1))) : 0;
}

function words(sample, top, detail) {
  const colour = COLOURS[chosen.colour];
  const body = element("div", { class: "words" });
  const other = at("diff").checked && sample.when === "end" ? opposite(sample) : null;
  if (other) {
    for (const [text, both] of differing(sample.text, other.text)) {
      body.append(both ? text : element("mark", {}, text));
    }
  } else if (!sample.tokens) {
    body.append(sample.text);
  } else {
    sample.tokens.forEach((token, i) => {
      const value = colour.value(sample, i);
      const foreign = (sample.foreign || []).includes(i);
      const span = element("span", { title: told(sample, i), class: foreign ? "foreign" : "own" }, token);
      if (value !== null) {
        const strength = Math.round(Math.min(1, Math.abs(value) / top) * 65);
        if (strength > 2) {
          span.style.background = `color-mix(in srgb, var(--${value > 0 ? "plus" : "minus"}) ${strength}%, transparent)`;
        }
      }
      span.addEventListener("click", () => { detail.textContent = told(sample, i).replaceAll("\n", " · "); });
      body.append(span);
    });
  }
  if (!sample.finished) body.append(element("span", { class: "soft", title: "cut off" }, " …"));
  return body;
}

function told(sample, i) {
  const lines = [JSON.stringify(sample.tokens[i])];
  if ((sample.foreign || []).includes(i)) lines.push("not the policy's own");
  const now = number(sample.logprob, i), then = number(sample.reference, i), advantage = number(sample.advantage, i);
  if (now !== null) lines.push(`log π ${now.toFixed(2)}`);
  if (then !== null) lines.push(`log π of the start ${then.toFixed(2)}`);
  const ratio = difference(sample, i);
  if (ratio !== null) lines.push(`log-ratio ${ratio.toFixed(2)}, KL (k3) ${(Math.exp(-ratio) - 1 + ratio).toFixed(3)}`);
  if (advantage !== null) lines.push(`advantage ${advantage.toFixed(2)}`);
  return lines.join("\n");
}

// A label that may go on in another line after a bracket or a comma, its settings called by their own names.
function called(label) {
  const parts = label.replaceAll("[optimizer.", "[").replaceAll(",optimizer.", ",").split(/(?<=[[,])/);
  return element("span", {}, ...parts.flatMap((part, i) => (i ? [element("wbr"), part] : [part])));
}

function card(sample, heading, top) {
  const box = element("article", { class: "answer" });
  const detail = element("div", { class: "said" });
  box.append(element("header", {}, called(heading), element("span", { class: "soft" }, sample.when)));
  if (sample.asked) box.append(element("div", { class: "asked" }, sample.asked));
  box.append(words(sample, top, detail));
  const said = Object.entries(sample.said).map(([name, value]) => `${name} ${value}`).join(" · ");
  if (said) box.append(element("div", { class: "said" }, said));
  if (sample.note) box.append(element("div", { class: "note" }, `judge: ${sample.note}`));
  box.append(detail);
  return box;
}

// Rows of samples side by side, a column an algorithm, each with what its samples have in common.
function rows(algorithms) {
  const task = data[chosen.task];
  const nth = (samples) => algorithms.map((a) => samples.filter((s) => s.algorithm === a.label));
  const numbered = (columns, name) => {
    const longest = Math.max(0, ...columns.map((column) => column.length));
    return [...Array(longest).keys()].map((i) => [`${name} ${i + 1} of ${longest}`, columns.map((column) => column[i])]);
  };
  if (chosen.kind === "training") return numbered(nth(task.training), "sample");
  const answers = task.answers.filter((s) => s.prompt === chosen.prompt);
  const ends = (when) => nth(answers.filter((s) => s.when === when)).map((column) => column[0]);
  const found = [["at the end", ends("end")]];
  if (at("way").checked) {
    found.push(["at the end, greedily", ends("end, greedy")]);
    found.push(...numbered(nth(answers.filter((s) => s.when.startsWith("step"))), "on the way, checkpoint"));
  }
  return found.filter(([, samples]) => samples.some((s) => s));
}

// --- which prompts: who is better, what was searched for, in which order -------------------------------------------

function score(label, prompt) {
  const task = data[chosen.task];
  const found = task.answers.find((s) => s.algorithm === label && s.prompt === prompt && s.when === "end");
  return found && task.metric in found.said ? found.said[task.metric] : null;
}

function opposite(sample) {
  const [a, b] = [at("a").value, at("b").value];
  const other = sample.algorithm === a ? b : sample.algorithm === b ? a : null;
  if (other === null || other === sample.algorithm) return null;
  return data[chosen.task].answers.find((s) => s.algorithm === other && s.prompt === sample.prompt && s.when === "end");
}

// The words of a text, each with whether the other text has it, too: the longest common subsequence.
function differing(text, other) {
  const [ours, theirs] = [text, other].map((each) => each.split(/(?<=\s)/).slice(0, 2000));
  const same = (i, j) => ours[i].trim() === theirs[j].trim();
  const length = Array.from({ length: ours.length + 1 }, () => new Uint16Array(theirs.length + 1));
  for (let i = ours.length - 1; i >= 0; i--) {
    for (let j = theirs.length - 1; j >= 0; j--) {
      length[i][j] = same(i, j) ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const found = [];
  for (let i = 0, j = 0; i < ours.length; i++) {
    while (j < theirs.length && !same(i, j) && length[i][j + 1] >= length[i + 1][j]) j++;
    const both = j < theirs.length && same(i, j);
    found.push([ours[i], both]);
    if (both) j++;
  }
  return found;
}

function select() {
  const task = data[chosen.task];
  const [a, b, filter, order] = ["a", "b", "filter", "order"].map((name) => at(name).value);
  const wanted = at("search").value.trim().toLowerCase();
  const texts = new Map();
  if (wanted) {
    for (const s of task.answers) texts.set(s.prompt, `${texts.get(s.prompt) || ""}\n${s.text}`);
  }
  const kept = task.prompts.map((asked, prompt) => {
    const [x, y] = [score(a, prompt), score(b, prompt)];
    return { asked, prompt, x, lead: x === null || y === null ? null : x - y };
  }).filter((p) => {
    if (filter === "wins" && !(p.lead > 0)) return false;
    if (filter === "losses" && !(p.lead < 0)) return false;
    if (filter === "differ" && !p.lead) return false;
    return !wanted || `${p.asked}\n${texts.get(p.prompt) || ""}`.toLowerCase().includes(wanted);
  });
  const last = (value) => (value === null ? Infinity : value);
  if (order === "worst") kept.sort((p, q) => last(p.x) - last(q.x));
  if (order === "lead") kept.sort((p, q) => last(p.lead === null ? null : -p.lead) - last(q.lead === null ? null : -q.lead));
  chosen.found = kept.map((p) => p.prompt);
  if (!chosen.found.includes(chosen.prompt)) chosen.prompt = chosen.found.length ? chosen.found[0] : -1;
  fill(at("prompt"), kept.map((p) => [p.prompt, `${p.prompt + 1}. ${p.asked.slice(0, 70)}`]), chosen.prompt);
  show();
}

function showScale(top) {
  const { low, high } = COLOURS[chosen.colour];
  const number = (sign) => (top ? `${sign}${top}` : "");
  const side = element("i", { class: !low ? "up" : !high ? "down" : "" });
  at("scale").hidden = !low && !high;
  at("scale").replaceChildren(low ? `${low} ${number("−")}` : "0", side, high ? `${number("+")} ${high}` : "0");
}

function show() {
  at("prompt-row").hidden = chosen.kind !== "answers";
  at("asked").hidden = at("filters").hidden = chosen.kind !== "answers";
  const { prompts, algorithms, asked } = data[chosen.task];
  const picked = [...document.querySelectorAll("#who input")].filter((box) => box.checked).map((box) => box.value);
  const there = chosen.kind === "training" ? data[chosen.task].training : data[chosen.task].answers;
  const columns = algorithms.filter((a) => picked.includes(a.label) && there.some((s) => s.algorithm === a.label));
  at("asked").textContent = prompts[chosen.prompt] ?? "";
  const place = `${chosen.found.indexOf(chosen.prompt) + 1} of ${chosen.found.length}`;
  const few = asked > prompts.length ? ` of ${prompts.length} shown, ${asked} asked` : ` of ${prompts.length}`;
  at("position").textContent = place + (chosen.found.length < asked ? `,${few}` : "");
  const shown = rows(columns);
  const top = strongest(shown.flatMap(([, samples]) => samples.filter((s) => s)));
  showScale(top);
  at("answers").style.gridTemplateColumns = `repeat(${Math.max(1, columns.length)}, minmax(10.4rem, 1fr))`;
  at("answers").replaceChildren(...shown.flatMap(([heading, samples]) => [
    element("h4", {}, heading),
    ...samples.map((s, j) => (s ? card(s, columns[j].label, top) : element("div", { class: "gap" }))),
  ]));
}

function turn(by) {
  const n = chosen.found.length;
  if (!n) return;
  chosen.prompt = chosen.found[(chosen.found.indexOf(chosen.prompt) + by + n) % n];
  at("prompt").value = String(chosen.prompt);
  show();
}

function pickTask(task) {
  chosen.task = task;
  chosen.prompt = 0;
  const labels = data[task].algorithms.map((a) => [a.label, a.label]);
  const ours = data[task].algorithms.filter((a) => a.role === "algorithm").map((a) => a.label);
  fill(at("a"), labels, ours[0] || labels[0][0]);
  fill(at("b"), labels, ours[1] || labels[0][0]);
  at("who").replaceChildren(...data[task].algorithms.map((a) => {
    const box = element("input", { type: "checkbox", value: a.label });
    box.checked = true;
    box.addEventListener("change", show);
    return element("label", {}, box, a.label);
  }));
  select();
}

const tasks = Object.keys(data);
if (tasks.length) {
  fill(at("task"), tasks.map((t) => [t, t]), tasks[0]);
  at("task").addEventListener("change", (e) => pickTask(e.target.value));
  at("kind").addEventListener("change", (e) => { chosen.kind = e.target.value; show(); });
  at("colour").addEventListener("change", (e) => { chosen.colour = e.target.value; show(); });
  at("prompt").addEventListener("change", (e) => { chosen.prompt = Number(e.target.value); show(); });
  for (const name of ["way", "diff"]) at(name).addEventListener("change", show);
  for (const name of ["a", "b", "filter", "order"]) at(name).addEventListener("change", select);
  at("search").addEventListener("input", select);
  at("before").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  pickTask(tasks[0]);
}
