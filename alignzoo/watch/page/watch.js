"use strict";
// Asks for the state every two seconds and draws it. What models wrote is put into the page as text, never as markup.

const EVERY = 2000, FIRST = 6, WIDTH = 340, HEIGHT = 190, LEFT = 52, FOOT = 20;
const at = (id) => document.getElementById(id);
let seen = "";

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  for (const child of children) made.append(child);
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(1);
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

function clock(seconds) {
  if (seconds >= 5400) return `about ${Math.round(seconds / 3600)} h`;
  return seconds >= 90 ? `about ${Math.round(seconds / 60)} min` : `about ${Math.max(1, Math.round(seconds))} s`;
}

function figure(metric, series, number) {
  const lines = series.filter((s) => s.curves[metric]).map((s) => ({ ...s, points: s.curves[metric].filter((p) => p[1] !== null) }));
  const every = lines.flatMap((s) => s.points);
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": metric });
  const made = element("figure", {}, element("figcaption", {}, metric), svg);
  if (!every.length) {
    svg.append(drawn("text", { x: LEFT, y: HEIGHT / 2 }, "no finite value"));
    return made;
  }
  let low = Math.min(...every.map((p) => p[1])), high = Math.max(...every.map((p) => p[1]));
  if (low === high) { low -= 0.5; high += 0.5; }
  const last = Math.max(1, ...every.map((p) => p[0]));
  const x = (step) => LEFT + (step / last) * (WIDTH - LEFT - 8);
  const y = (value) => 8 + ((high - value) / (high - low)) * (HEIGHT - FOOT - 12);
  svg.append(drawn("path", { class: "frame", d: `M${LEFT} 4V${HEIGHT - FOOT}H${WIDTH - 4}` }));
  svg.append(drawn("text", { x: LEFT - 5, y: 13, "text-anchor": "end" }, short(high)));
  svg.append(drawn("text", { x: LEFT - 5, y: HEIGHT - FOOT, "text-anchor": "end" }, short(low)));
  svg.append(drawn("text", { x: WIDTH - 4, y: HEIGHT - 5, "text-anchor": "end" }, `step ${last}`));
  for (const line of lines) {
    const group = drawn("g", { class: `is${number(line.label) % 8}${number(line.label) >= 8 ? " later" : ""}` });
    group.append(drawn("title", {}, `${line.label || metric}${line.seed ? `, seed ${line.seed}` : ""}`));
    const points = line.points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`);
    group.append(drawn("polyline", { points: points.join(" ") }));
    if (points.length) {
      const [cx, cy] = points[points.length - 1].split(",");
      group.append(drawn("circle", { cx, cy, r: 2.5 }));
    }
    svg.append(group);
  }
  return made;
}

function sample(each) {
  const said = ["reward", "gold"].filter((name) => typeof each[name] === "number").map((name) => `${name} ${short(each[name])}`);
  const heading = [each.label, each.seed !== "" ? `seed ${each.seed}` : "", each.stage, `step ${each.step}`, each.when, ...said];
  return element("article", {},
    element("span", { class: "soft" }, heading.filter((word) => word !== "" && word !== undefined).join(" · ")),
    element("div", { class: "asked" }, each.prompt ?? ""),
    element("div", {}, `${each.completion ?? ""}${each.finished === false ? " …" : ""}`));
}

function progress(state) {
  const p = state.progress;
  if (state.kind === "run") {
    const age = p.age === null || p.age === undefined ? "" : `, the last ${p.age < 5 ? "just now" : `${Math.round(p.age)} s ago`}`;
    return `${p.steps} steps${age}${p.ended ? "; it has ended" : ""}`;
  }
  if (p.total === undefined) return "No run has ended yet.";
  at("bar").hidden = false;
  at("bar").firstElementChild.style.width = `${(100 * p.done) / p.total}%`;
  at("bar").setAttribute("aria-valuenow", p.done);
  at("bar").setAttribute("aria-valuemax", p.total);
  const left = p.done < p.total && p.left !== null ? `, ${clock(p.left)} left` : "";
  return `${p.done} of ${p.total} runs have ended${left}`;
}

function show(state) {
  document.title = `${state.name}: alignzoo watch`;
  at("name").textContent = state.name;
  at("said").textContent = progress(state);
  at("report").hidden = !state.report;
  const unchanged = JSON.stringify([state.series, state.samples, state.warnings, state.cells, at("more").value]);
  if (unchanged === seen) return;  // so that what is being read or marked stays
  seen = unchanged;
  const labels = [...new Set(state.series.map((s) => s.label))];
  const number = (label) => labels.indexOf(label);
  at("legend").replaceChildren(...labels.filter((l) => l).map((l) => element("span", { class: `is${number(l) % 8}` }, l)));
  const metrics = at("more").value === "all" ? state.metrics : state.metrics.slice(0, FIRST);
  at("curves").replaceChildren(...metrics.map((metric) => figure(metric, state.series, number)));
  const warned = state.warnings.map((w) => element("li", {}, element("strong", {}, w.kind ?? "warning"),
    ` ${[w.label, w.seed !== "" ? `seed ${w.seed}` : ""].filter((word) => word).join(", ")} step ${w.step}: ${w.message}`));
  at("warnings").replaceChildren(...(warned.length ? warned : [element("li", { class: "soft" }, "none so far")]));
  at("runs").hidden = !state.cells.length;
  at("cells").replaceChildren(...state.cells.map((c) => element("li", { class: ["ok", "running", "waiting"].includes(c.status) ? "" : "bad" },
    `${c.id}: ${c.status}${c.error ? `, ${c.error}` : ""}`)));
  at("samples").replaceChildren(...state.samples.map(sample));
}

async function ask() {
  try {
    const answer = await fetch("state");
    if (!answer.ok) throw new Error(await answer.text());
    show(await answer.json());
  } catch (error) {
    at("said").textContent = `No answer: has alignzoo watch ended? (${error.message})`;
  }
  setTimeout(ask, EVERY);
}

at("more").addEventListener("change", () => { seen = ""; });
ask();
