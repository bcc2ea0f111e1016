// An order with ties: chips, best first, that are placed by number keys, moved by arrow keys, or dragged.

export function ranking(n, letters, { strip, pool }, changed) {
  let tiers = []; // of places 0 to n - 1, best first; those of one tier tie
  let ties = false; // the next one that is placed ties with the last
  let dragged = null;
  let droppedAt = -Infinity;

  const placed = () => tiers.flat();
  const tierOf = (place) => tiers.findIndex((tier) => tier.includes(place));

  function take(place) {
    tiers = tiers.map((tier) => tier.filter((other) => other !== place)).filter((tier) => tier.length);
  }

  function toggle(place) {
    if (place >= n) return;
    if (placed().includes(place)) take(place);
    else if (ties && tiers.length) tiers.at(-1).push(place);
    else tiers.push([place]);
    ties = false;
    render();
  }

  function move(place, by) {
    const at = tierOf(place);
    if (at < 0) return;
    const alone = tiers[at].length === 1;
    const to = Math.max(0, Math.min(alone ? at + by : by < 0 ? at : at + 1, tiers.length));
    take(place);
    tiers.splice(to, 0, [place]);
    render(place);
  }

  function tie(place) {
    const at = tierOf(place);
    if (at < 1) return;
    const above = tiers[at - 1];
    take(place);
    above.push(place);
    render(place);
  }

  function chip(place) {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "chip";
    made.dataset.place = place;
    made.textContent = letters[place];
    const number = document.createElement("kbd");
    number.textContent = place + 1;
    made.append(number);
    const at = tierOf(place);
    made.setAttribute("aria-label", at < 0 ? `Answer ${letters[place]}, not ranked` : `Answer ${letters[place]}, rank ${at + 1}${tiers[at].length > 1 ? ", tied" : ""}`);
    made.addEventListener("pointerdown", (event) => {
      dragged = { place, x: event.clientX, y: event.clientY, moved: false, made };
      made.setPointerCapture(event.pointerId);
    });
    made.addEventListener("pointermove", (event) => {
      if (dragged?.made !== made) return;
      const [x, y] = [event.clientX - dragged.x, event.clientY - dragged.y];
      dragged.moved ||= Math.hypot(x, y) > 5;
      if (dragged.moved) made.style.transform = `translate(${x}px, ${y}px)`;
    });
    made.addEventListener("pointercancel", () => {
      dragged = null;
      render();
    });
    made.addEventListener("pointerup", (event) => {
      const was = dragged;
      dragged = null;
      if (was?.moved) drop(place, event.clientX, event.clientY);
    });
    made.addEventListener("click", () => {
      if (performance.now() - droppedAt > 50) toggle(place); // a drag ends with a click, too
    });
    return made;
  }

  function drop(place, x, y) {
    const inside = (box) => x >= box.left - 8 && x <= box.right + 8 && y >= box.top - 24 && y <= box.bottom + 24;
    droppedAt = performance.now();
    const others = [...strip.querySelectorAll(".chip")].filter((other) => Number(other.dataset.place) !== place);
    if (!inside(strip.getBoundingClientRect())) {
      take(place);
      return render();
    }
    const boxes = others.map((other) => [Number(other.dataset.place), other.getBoundingClientRect()]);
    const middle = (box) => [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    const far = ([, box]) => Math.hypot(middle(box)[0] - x, middle(box)[1] - y);
    const nearest = boxes.sort((a, b) => far(a) - far(b))[0];
    take(place);
    if (!nearest) tiers.push([place]);
    else {
      const [other, box] = nearest;
      const off = (x - middle(box)[0]) / (box.right - box.left);
      const at = tierOf(other);
      if (Math.abs(off) < 0.35) tiers[at].push(place);
      else tiers.splice(off < 0 ? at : at + 1, 0, [place]);
    }
    render(place);
  }

  function render(focus) {
    strip.replaceChildren(
      ...tiers.map((tier) => {
        const entry = document.createElement("li");
        entry.append(...tier.map(chip));
        return entry;
      }),
    );
    strip.classList.toggle("ties", ties);
    const rest = [...Array(n).keys()].filter((place) => !placed().includes(place));
    pool.replaceChildren(
      ...rest.map((place) => {
        const entry = document.createElement("li");
        entry.append(chip(place));
        return entry;
      }),
    );
    if (focus !== undefined) strip.querySelector(`[data-place="${focus}"]`)?.focus();
    changed(ranks(), whole());
  }

  const ranks = () => [...Array(n).keys()].map((place) => tierOf(place) + 1);
  const whole = () => placed().length === n;

  function key(name) {
    const marked = document.activeElement?.classList.contains("chip") ? Number(document.activeElement.dataset.place) : null;
    if (/^[1-9]$/.test(name)) return () => toggle(Number(name) - 1);
    if (name === "=" && marked !== null && tierOf(marked) > 0) return () => tie(marked);
    if (name === "=") return () => {
      ties = tiers.length > 0;
      render();
    };
    if (name === "Backspace") return () => {
      if (tiers.length) take(tiers.at(-1).at(-1));
      render();
    };
    if (marked !== null && name === "ArrowLeft") return () => move(marked, -1);
    if (marked !== null && name === "ArrowRight") return () => move(marked, 1);
    return null;
  }

  function set(given) {
    tiers = [];
    given.forEach((rank, place) => (tiers[rank - 1] ??= []).push(place));
    tiers = tiers.filter(Boolean);
    render();
  }

  render();
  return { ranks, whole, key, set };
}
