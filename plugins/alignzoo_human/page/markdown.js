// Markdown as elements. What is read becomes the text of an element that is made here: no HTML is ever parsed, nothing
// is loaded, and an address is shown, not followed.

const INLINE = /(`+)([\s\S]*?[^`])\1(?!`)|\*\*([^*\n]+)\*\*|__([^_\n]+)__|\*([^*\s][^*\n]*)\*|\[([^\]\n]*)\]\(([^)\s]*)\)/g;

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

function inline(parent, text) {
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    parent.append(text.slice(at, found.index));
    const [whole, , code, bold, bold2, italic, label, address] = found;
    if (code !== undefined) parent.append(element("code", code));
    else if (bold ?? bold2) parent.append(element("strong", bold ?? bold2));
    else if (italic) parent.append(element("em", italic));
    else parent.append(element("u", label), ` (${address})`);
    at = found.index + whole.length;
  }
  parent.append(text.slice(at));
}

export function markdown(text) {
  const made = document.createDocumentFragment();
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    const fence = /^\s*(```+|~~~+)/.exec(line);
    if (fence) {
      const end = lines.findIndex((other, i) => i > at && other.trim().startsWith(fence[1]));
      const last = end < 0 ? lines.length : end;
      const block = element("pre");
      block.append(element("code", lines.slice(at + 1, last).join("\n")));
      made.append(block);
      at = last + 1;
      continue;
    }
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    if (heading) {
      const title = element("p");
      const strong = element("strong");
      inline(strong, heading[2]);
      title.append(strong);
      made.append(title);
      at += 1;
      continue;
    }
    const item = /^\s*([-*+]|\d{1,9}[.)])\s+/;
    if (item.test(line)) {
      const list = element(/^\s*\d/.test(line) ? "ol" : "ul");
      if (list.tagName === "OL") list.start = Number(/\d+/.exec(line)[0]);
      for (; at < lines.length && item.test(lines[at]); at += 1) {
        const entry = element("li");
        inline(entry, lines[at].replace(item, ""));
        list.append(entry);
      }
      made.append(list);
      continue;
    }
    if (!line.trim()) {
      at += 1;
      continue;
    }
    const paragraph = element(line.startsWith(">") ? "blockquote" : "p");
    const from = at;
    while (at < lines.length && lines[at].trim() && (at === from || !/^\s*(```|~~~|#{1,6}\s|[-*+]\s|\d{1,9}[.)]\s)/.test(lines[at]))) at += 1;
    inline(paragraph, lines.slice(from, at).join("\n").replace(/^>\s?/gm, ""));
    made.append(paragraph);
  }
  return made;
}
