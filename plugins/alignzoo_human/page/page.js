// The page: it shows one question at a time, and tells the server each verdict until that has stored it.

import { markdown } from "/markdown.js";
import { ranking } from "/ranking.js";

const $ = (id) => document.getElementById(id);
const DWELL = 250; // milliseconds: a key that is still held down is no verdict on the next question
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

let settings = {};
let question = null;
let order = null; // of a ranking
let key = ""; // of this showing's verdict: one that is sent twice counts once
let busy = false;
let shownAt = 0;
let seenSince = 0;
let seen = 0;
let waiting = 0;

function drawn() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const tab = sessionStorage.getItem("tab") ?? drawn();
sessionStorage.setItem("tab", tab);

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

function say(text) {
  $("status").textContent = text;
}

// --- the server -------------------------------------------------------------------------------------------------------

async function call(name, body = {}) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 5000)) {
    try {
      const answer = await fetch(`/api/${name}`, { method: "POST", body: JSON.stringify(body) });
      if (answer.status !== 429 && answer.status !== 503) return [answer.status, await answer.json()];
    } catch {
      // the server does not answer: it is asked again until it does, with the same key
    }
    say("The server does not answer. What you chose is not stored yet; trying again …");
    await new Promise((after) => setTimeout(after, wait));
  }
}

async function alone(work) {
  if (busy) return;
  busy = true;
  document.body.classList.add("busy");
  try {
    await work();
  } finally {
    busy = false;
    document.body.classList.remove("busy");
  }
}

async function next(message = "") {
  clearTimeout(waiting);
  const [status, found] = await call("next", { tab });
  if (status !== 200) return say(found.error);
  const here = found.done ? "done" : String(found.ask);
  if (location.hash.slice(1) !== here) history.pushState(null, "", `#${here}`);
  show(found, message);
}

// New questions may come, of a run that goes on; a server that rests meanwhile is no news.
async function look() {
  try {
    const answer = document.hidden || busy ? null : await fetch("/api/next", { method: "POST", body: JSON.stringify({ tab }) });
    const found = answer?.ok ? await answer.json() : null;
    if (found && !found.done && question?.done && !busy) return alone(() => next("There are new questions."));
  } catch {
    // asked again below
  }
  if (question?.done) waiting = setTimeout(look, 3000);
}

async function revisit() {
  const number = Number(location.hash.slice(1));
  if (!Number.isInteger(number) || number < 1) return next();
  const [status, found] = await call("ask", { ask: number });
  return status === 200 ? show(found) : next();
}

function send(value, more = {}) {
  if (!question || question.done || performance.now() - shownAt < DWELL) return;
  return alone(async () => {
    const body = { ask: question.ask, key, seconds: seconds(), supersedes: question.said?.id ?? null };
    if (value === null) Object.assign(body, { action: "skip", comment: $("comment").value });
    else Object.assign(body, { value, reasons: reasons(), comment: $("comment").value, ...more });
    const [status, found] = await call("vote", body);
    if (status === 409) return next("This question was answered in another tab.");
    if (status !== 200) {
      say(`Not stored: ${found.error}.`);
      if (status === 400 && settings.reasons === "required") $("reason-all").querySelector("textarea").focus();
      return;
    }
    const others = settings.show_others && value !== null ? await call("others", { ask: question.ask }) : null;
    await next(`${value === null ? "Skipped" : "Stored"}.${others?.[0] === 200 ? told(others[1].others) : ""}`);
  });
}

function told(others) {
  const [kind, n] = [question.kind, others.length];
  const names = { 1: "A", 0: "B", 0.5: "a tie" };
  return n ? ` Others: ${others.map(({ value }) => (kind === "pair" ? names[value] : String(value))).join("; ")}.` : "";
}

function undo() {
  return alone(async () => {
    const [status, found] = await call("undo", { key: drawn() });
    if (status === 409) return next();
    if (found.none) return say("There is nothing to undo.");
    if (status !== 200) return say(found.error);
    history.pushState(null, "", `#${found.ask}`);
    show(found, "Taken back: this question is asked again.", found.before);
  });
}

// --- a question -------------------------------------------------------------------------------------------------------

function turns(parent, messages, named) {
  for (const { role, content } of messages) {
    const turn = make("div", { class: "turn", dir: "auto" });
    if (named) parent.append(make("p", { class: "role" }, role));
    if (settings.markdown) turn.append(markdown(content));
    else turn.textContent = content;
    if (!content) turn.append(make("i", {}, "(an empty text)"));
    parent.append(turn);
  }
}

function reasonBox(parent, name, placeholder) {
  parent.replaceChildren();
  for (const criterion of settings.criteria) {
    const marks = make("span", { class: "marks", role: "group", "aria-label": `${criterion}, ${name}` }, `${criterion} `);
    for (const [mark, sign, says] of [[1, "+", "speaks for"], [-1, "−", "speaks against"]]) {
      const button = make("button", { type: "button", "aria-pressed": "false", "aria-label": `${criterion} ${says} ${name}` }, sign);
      Object.assign(button.dataset, { criterion, mark });
      button.addEventListener("click", () => {
        const pressed = button.getAttribute("aria-pressed") === "true";
        for (const other of marks.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
        button.setAttribute("aria-pressed", String(!pressed));
      });
      marks.append(button);
    }
    parent.append(marks);
  }
  parent.append(make("textarea", { rows: 1, maxlength: 10000, dir: "auto", placeholder, "aria-label": placeholder }));
}

function reasonOf(parent) {
  const criteria = {};
  for (const button of parent.querySelectorAll("[aria-pressed=true]")) criteria[button.dataset.criterion] = Number(button.dataset.mark);
  return { text: parent.querySelector("textarea").value, criteria };
}

function reasons() {
  if (settings.reasons === "off") return null;
  return { all: reasonOf($("reason-all")), answers: [...document.querySelectorAll(".answer .reason")].map(reasonOf) };
}

function fill(parent, reason) {
  if (!reason) return;
  parent.querySelector("textarea").value = reason.text ?? "";
  for (const [criterion, mark] of Object.entries(reason.criteria ?? {})) {
    for (const button of parent.querySelectorAll("button")) {
      if (button.dataset.criterion === criterion && Number(button.dataset.mark) === mark) button.setAttribute("aria-pressed", "true");
    }
  }
}

function show(found, message = "", before = null) {
  question = found;
  key = drawn();
  [seen, seenSince, shownAt] = [0, performance.now(), performance.now()];
  progress(found.progress);
  const answers = $("answers");
  answers.replaceChildren();
  answers.className = found.kind ?? "";
  $("prompt").replaceChildren();
  for (const id of ["why", "rank", "before", "on"]) $(id).hidden = true;
  for (const id of ["comment-box", "skip"]) $(id).hidden = Boolean(found.done);
  $("verdicts").replaceChildren();
  $("verdicts").className = found.kind ?? "";
  $("criterion").textContent = found.criterion ?? "";
  $("comment").value = "";
  if (found.done) {
    $("title").textContent = "There is nothing left to label";
    $("prompt").replaceChildren(make("p", {}, "Every question that is open has been answered. New ones appear here as they come; the page may as well be closed."));
    say(message);
    clearTimeout(waiting);
    waiting = setTimeout(look, 3000);
    return;
  }
  $("title").textContent = { pair: "Which answer is better?", ranking: "Rank the answers, best first", grade: "How good is the answer?" }[found.kind];
  turns($("prompt"), found.prompt, found.prompt.length > 1 || found.prompt[0]?.role !== "user");
  found.answers.forEach((messages, place) => {
    const name = found.kind === "grade" ? "Answer" : `Answer ${LETTERS[place]}`;
    const card = make("article", { class: "answer", id: `answer-${place + 1}`, "aria-label": name });
    card.append(make("h2", {}, name));
    const text = make("div", { class: "text", tabindex: "0", role: "region", "aria-label": `${name}, text` });
    turns(text, messages, messages.length > 1);
    card.append(text);
    if (settings.reasons !== "off") {
      const reason = make("div", { class: "reason" });
      reasonBox(reason, name, `What speaks for or against ${name === "Answer" ? "it" : name}?`);
      card.append(reason);
    }
    answers.append(card);
  });
  if (settings.reasons !== "off") {
    $("why").hidden = found.kind === "grade";
    reasonBox($("reason-all"), "the verdict", settings.reasons === "required" ? "Why? (asked for)" : "Why?");
  }
  verdicts(found);
  const said = found.said ?? before;
  if (said) recall(said, found.said);
  $("title").focus({ preventScroll: true });
  window.scrollTo(0, 0);
  say(message);
}

function verdicts({ kind, answers }) {
  const button = (label, shortcut, does, name) => {
    const made = make("button", { type: "button", "aria-keyshortcuts": name ?? shortcut }, `${label} `, make("kbd", {}, shortcut));
    made.addEventListener("click", does);
    $("verdicts").append(made);
    return made;
  };
  order = null;
  if (kind === "pair") {
    button("A is better", "←", () => send(1), "ArrowLeft").dataset.value = 1;
    button("Tie", "↑", () => send(0.5), "ArrowUp").dataset.value = 0.5;
    button("Both bad", "↓", () => send(0.5, { bad: true }), "ArrowDown").dataset.value = "bad";
    button("B is better", "→", () => send(0), "ArrowRight").dataset.value = 0;
  } else if (kind === "grade") {
    for (let grade = 1; grade <= settings.grades; grade += 1) {
      const word = settings.grades === 2 ? ["bad", "good"][grade - 1] : grade === 1 ? "worst" : grade === settings.grades ? "best" : "";
      const made = button("", String(grade), () => send(grade));
      made.replaceChildren(`${grade} ${word}`.trim());
      made.dataset.value = grade;
    }
  } else {
    $("rank").hidden = false;
    const store = button("Store the order", "Enter", () => order.whole() && send(order.ranks()));
    order = ranking(answers.length, LETTERS, { strip: $("strip"), pool: $("pool") }, (ranks, whole) => {
      store.disabled = !whole;
      ranks.forEach((rank, place) => {
        $(`answer-${place + 1}`).querySelector("h2").dataset.rank = rank ? `rank ${rank}` : "";
      });
    });
  }
}

function recall(said, stands) {
  if (said.reasons?.all) fill($("reason-all"), said.reasons.all);
  const boxes = [...document.querySelectorAll(".answer .reason")];
  said.reasons?.answers?.forEach((reason, place) => boxes[place] && fill(boxes[place], reason));
  $("comment").value = said.comment ?? "";
  if (said.action === "vote") {
    if (order) order.set(said.value);
    const value = said.reasons?.bad ? "bad" : String(said.value);
    for (const button of $("verdicts").querySelectorAll("button")) {
      if (button.dataset.value === value) button.setAttribute("aria-current", "true");
    }
  }
  if (!stands) return;
  $("before").hidden = $("on").hidden = false;
  $("before").textContent = said.action === "skip" ? "You skipped this question. A verdict now counts." : "You have answered this question. Another verdict corrects it.";
}

function progress({ voted, left, pace }) {
  const all = voted + left;
  $("bar").setAttribute("aria-valuemax", all);
  $("bar").setAttribute("aria-valuenow", voted);
  $("bar").firstElementChild.style.width = `${all ? (100 * voted) / all : 0}%`;
  const minutes = Math.ceil((left * pace) / 60);
  const rest = pace && left ? ` · ${pace < 10 ? pace.toFixed(1) : Math.round(pace)} s each · about ${minutes} min left` : "";
  $("pace").textContent = `${voted} of ${all}${rest}`;
}

function seconds() {
  return (seen + (document.hidden ? 0 : performance.now() - seenSince)) / 1000;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) seen += performance.now() - seenSince;
  seenSince = performance.now();
});

// --- keys -------------------------------------------------------------------------------------------------------------

const ALWAYS = [["s", "skip"], ["u", "undo, also of earlier questions"], ["r", "why"], ["Alt 1–9", "what speaks for or against an answer"],
  ["c", "comment"], ["Esc", "out of a text"], ["Ctrl Enter", "store the order, or the marked verdict"], ["n", "go on to the next question"], ["?", "these keys"]];
const OWN = {
  pair: [["← or 1", "A is better"], ["→ or 2", "B is better"], ["↑ or 0", "tie"], ["↓", "both bad"]],
  ranking: [["1–9", "the answer with this number comes next; again: takes it out"], ["=", "the next one ties with the last"],
    ["Backspace", "takes the last one out"], ["← →", "moves the marked answer"], ["Enter", "store the order"]],
  grade: [["1–9", "the grade"]],
};

function help() {
  $("keys").replaceChildren(...[...(OWN[question?.kind] ?? []), ...ALWAYS].flatMap(([shortcut, does]) => [make("dt", {}, make("kbd", {}, shortcut)), make("dd", {}, does)]));
  $("instructions").textContent = settings.instructions;
  if ($("help").open) $("help").close();
  else $("help").showModal();
}

function pairKey(name, inText) {
  const values = { ArrowLeft: 1, 1: 1, ArrowRight: 0, 2: 0, 0: 0.5 };
  if (name in values) return () => send(values[name]);
  if (inText) return null; // up and down scroll a text that has the focus
  return { ArrowUp: () => send(0.5), ArrowDown: () => send(0.5, { bad: true }) }[name] ?? null;
}

function keyOf(event) {
  const common = { s: () => send(null), u: undo, c: comment, r: why, n: () => alone(() => next()), "?": help };
  if (event.key in common) return common[event.key];
  if (!question || question.done) return null;
  if (question.kind === "pair") return pairKey(event.key, document.activeElement?.classList.contains("text"));
  if (question.kind === "ranking") {
    if (event.key === "Enter" && document.activeElement?.tagName !== "BUTTON") return () => order.whole() && send(order.ranks());
    return order.key(event.key);
  }
  return Number(event.key) >= 1 && Number(event.key) <= settings.grades ? () => send(Number(event.key)) : null;
}

function comment() {
  $("comment-box").open = true;
  $("comment").focus();
}

function why() {
  if (!$("why").hidden) $("reason-all").querySelector("textarea").focus();
  else document.querySelector(".answer textarea")?.focus();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLTextAreaElement;
  if ($("help").open && event.key !== "?") return;
  if (event.key === "Escape" && typing) return void $("title").focus();
  if (event.ctrlKey && event.key === "Enter") {
    const marked = $("verdicts").querySelector("[aria-current=true]") ?? (order && $("verdicts").querySelector("button"));
    event.preventDefault();
    return void marked?.click();
  }
  if (event.altKey && /^Digit[1-9]$/.test(event.code)) {
    event.preventDefault();
    return void $(`answer-${event.code.at(-1)}`)?.querySelector("textarea")?.focus();
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const does = keyOf(event);
  if (!does) return;
  event.preventDefault();
  if (!event.repeat) does();
});

$("skip").addEventListener("click", () => send(null));
$("undo").addEventListener("click", undo);
$("on").addEventListener("click", () => alone(() => next()));
$("help-open").addEventListener("click", help);
window.addEventListener("popstate", () => alone(revisit));

// --- start ------------------------------------------------------------------------------------------------------------

if (location.search) history.replaceState(null, "", location.pathname + location.hash); // the token is in a cookie now
await alone(async () => {
  const [status, found] = await call("settings");
  if (status !== 200) return say(found.error);
  settings = found;
  $("who").textContent = found.rater;
  await revisit();
});
