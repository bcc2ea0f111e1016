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
const chosen = { task: "", kind: "answers", prompt: 0, colour: "ratio" };

const COLOURS = {
  none: { value: () => null, says: "" },
  ratio: { value: (s, i) => difference(s, i), says: "less likely than at the start|more likely", top: 2 },
  kl: {
    value: (s, i) => { const r = difference(s, i); return r === null ? null : Math.exp(-r) - 1 + r; },
    says: "|KL of the token, k3 estimate, in nats", top: 1,
  },
  advantage: { value: (s, i) => (s.advantage ? s.advantage[i] : null), says: "worse than expected|better", top: 2 },
  logprob: { value: (s, i) => (s.logprob ? s.logprob[i] : null), says: "unlikely|", top: 3 },
};

function difference(sample, i) {
  return sample.logprob && sample.reference ? sample.logprob[i] - sample.reference[i] : null;
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

function words(sample) {
  const colour = COLOURS[chosen.colour];
  const body = element("div", { class: "words" });
  if (!sample.tokens) {
    body.append(sample.text);
  } else {
    sample.tokens.forEach((token, i) => {
      const value = colour.value(sample, i);
      const span = element("span", { title: told(sample, i) }, token);
      if (value !== null) {
        const strength = Math.round(Math.min(1, Math.abs(value) / colour.top) * 62);
        if (strength > 2) {
          span.style.background = `color-mix(in srgb, var(--${value > 0 ? "plus" : "minus"}) ${strength}%, transparent)`;
        }
      }
      body.append(span);
    });
  }
  if (!sample.finished) body.append(element("span", { class: "soft", title: "cut off" }, " …"));
  return body;
}

function told(sample, i) {
  const lines = [JSON.stringify(sample.tokens[i])];
  if (sample.logprob) lines.push(`log π ${sample.logprob[i].toFixed(2)}`);
  if (sample.reference) lines.push(`log π of the start ${sample.reference[i].toFixed(2)}`);
  const ratio = difference(sample, i);
  if (ratio !== null) lines.push(`log-ratio ${ratio.toFixed(2)}, KL (k3) ${(Math.exp(-ratio) - 1 + ratio).toFixed(3)}`);
  if (sample.advantage) lines.push(`advantage ${sample.advantage[i].toFixed(2)}`);
  return lines.join("\n");
}

function card(sample, heading) {
  const box = element("article", { class: "answer" });
  box.append(element("header", {}, heading, element("span", { class: "soft" }, sample.when)));
  if (sample.asked) box.append(element("div", { class: "asked" }, sample.asked));
  box.append(words(sample));
  const said = Object.entries(sample.said).map(([name, value]) => `${name} ${value}`).join(" · ");
  if (said) box.append(element("div", { class: "said" }, said));
  if (sample.note) box.append(element("div", { class: "note" }, `judge: ${sample.note}`));
  return box;
}

function checkpoints(samples) {
  const order = (when) => (when.startsWith("step") ? Number(when.slice(5)) : when === "end" ? 1e12 : 1e13);
  return [...new Set(samples.map((s) => s.when))].sort((a, b) => order(a) - order(b));
}

function show() {
  const task = data[chosen.task];
  const colour = COLOURS[chosen.colour];
  const [low, high] = colour.says.split("|");
  at("scale").replaceChildren();
  if (colour.says) at("scale").append(low || "", element("i", {}), high || "");
  at("prompt-row").hidden = chosen.kind !== "answers";
  at("asked").hidden = chosen.kind !== "answers";
  const grid = at("answers");
  const picked = [...document.querySelectorAll("#who input")].filter((box) => box.checked).map((box) => box.value);
  const algorithms = task.algorithms.filter((a) => picked.includes(a.label));
  grid.style.gridTemplateColumns = `repeat(${Math.max(1, algorithms.length)}, minmax(12.5rem, 1fr))`;
  if (chosen.kind === "training") {
    const rows = algorithms.map((a) => task.training.filter((s) => s.algorithm === a.label));
    const longest = Math.max(0, ...rows.map((row) => row.length));
    const cards = [];
    for (let i = 0; i < longest; i += 1) {
      algorithms.forEach((a, j) => cards.push(rows[j][i] ? card(rows[j][i], a.label) : element("div", {})));
    }
    grid.replaceChildren(...cards);
    return;
  }
  at("asked").textContent = task.prompts[chosen.prompt] ?? "";
  at("position").textContent = `${task.prompts.length ? chosen.prompt + 1 : 0} of ${task.prompts.length}`;
  const samples = task.answers.filter((s) => s.prompt === chosen.prompt && picked.includes(s.algorithm));
  const steps = at("way").checked ? checkpoints(samples) : checkpoints(samples).filter((when) => when === "end");
  const cards = [];
  for (const when of steps) {
    for (const a of algorithms) {
      const found = samples.find((s) => s.when === when && s.algorithm === a.label);
      cards.push(found ? card(found, a.label) : element("div", {}));
    }
  }
  grid.replaceChildren(...cards);
}

function turn(by) {
  const n = data[chosen.task].prompts.length;
  chosen.prompt = n ? (chosen.prompt + by + n) % n : 0;
  at("prompt").value = String(chosen.prompt);
  show();
}

function pickTask(task) {
  chosen.task = task;
  chosen.prompt = 0;
  fill(at("prompt"), data[task].prompts.map((p, i) => [i, `${i + 1}. ${p.slice(0, 70)}`]), 0);
  at("who").replaceChildren(...data[task].algorithms.map((a) => {
    const box = element("input", { type: "checkbox", value: a.label });
    box.checked = true;
    box.addEventListener("change", show);
    return element("label", {}, box, a.label);
  }));
  show();
}

const tasks = Object.keys(data);
if (tasks.length) {
  fill(at("task"), tasks.map((t) => [t, t]), tasks[0]);
  at("task").addEventListener("change", (e) => pickTask(e.target.value));
  at("kind").addEventListener("change", (e) => { chosen.kind = e.target.value; show(); });
  at("colour").addEventListener("change", (e) => { chosen.colour = e.target.value; show(); });
  at("prompt").addEventListener("change", (e) => { chosen.prompt = Number(e.target.value); show(); });
  at("way").addEventListener("change", show);
  at("before").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  pickTask(tasks[0]);
}
