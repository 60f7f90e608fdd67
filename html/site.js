// Copy buttons, search and the mark of the section that is read. The pages work without any of it.
"use strict";

const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

// One place tells screen readers what has happened.
const told = make("p", { className: "unseen" });
told.setAttribute("role", "status");
document.body.append(told);

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // On plain http elsewhere than on this machine browsers have no clipboard for scripts but this one.
  const area = make("textarea", { value: text, className: "unseen" });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("not copied");
}

for (const code of document.querySelectorAll("pre > code")) {
  const button = make("button", { type: "button", className: "copy", textContent: "Copy" });
  button.addEventListener("click", async () => {
    const done = await copy(code.textContent).then(() => true, () => false);
    button.textContent = done ? "Copied" : "Not copied";
    told.textContent = done ? "Copied to the clipboard" : "The browser did not let it be copied";
    setTimeout(() => {
      button.textContent = "Copy";
      told.textContent = "";
    }, 2000);
  });
  code.before(button);
}

const contents = document.querySelector(".contents details");
if (contents) {
  // On a phone the list would hide the text.
  const wide = matchMedia("(min-width: 60.01rem)");
  const fit = () => (contents.open = wide.matches);
  wide.addEventListener("change", fit);
  fit();
  contents.addEventListener("click", (event) => {
    if (event.target.closest("a") && !wide.matches) contents.open = false;
  });
  markSection(contents.parentElement);
  search(document.querySelector(".search"));
}

function markSection(list) {
  const links = new Map([...list.querySelectorAll("details > ol > li > a")].map((link) => [link.hash.slice(1), link]));
  const headings = [...links.keys()].map((id) => document.getElementById(id));
  const mark = () => {
    const read = headings.findLast((heading) => heading.getBoundingClientRect().top < innerHeight / 3);
    for (const [id, link] of links) {
      if (id === read?.id) {
        const isNew = !link.hasAttribute("aria-current");
        link.setAttribute("aria-current", "true");
        // With its sub-sections, which are seen from now on.
        if (isNew) link.parentElement.scrollIntoView({ block: "nearest", behavior: "instant" });
      } else link.removeAttribute("aria-current");
    }
  };
  let waiting = false;
  const later = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      mark();
    });
  };
  addEventListener("scroll", later, { passive: true });
  addEventListener("resize", later);
  mark();
}

function search(box) {
  const [input, found, results] = ["input", ".found", ".results"].map((selector) => box.querySelector(selector));
  box.hidden = false;
  const entries = [...document.querySelectorAll("main :is(h2, h3)")].map((heading) => {
    let text = "";
    for (let next = heading.nextElementSibling; next && !next.matches("h2, h3"); next = next.nextElementSibling) {
      text += ` ${[...saidIn(next)].map(clean).filter(Boolean).join(" · ")}`;
    }
    const title = [...heading.childNodes].filter((node) => !node.classList?.contains("anchor"));
    return { id: heading.id, title: clean(title.map((node) => node.textContent).join("")), text: clean(text) };
  });
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const hits = words.length ? entries.map((entry) => rated(entry, words)).filter((hit) => hit.score) : [];
    hits.sort((one, other) => other.score - one.score);
    results.replaceChildren(...hits.slice(0, 12).map(({ entry }) => result(entry, words)));
    results.hidden = hits.length === 0;
    found.textContent = !words.length ? "" : hits.length === 1 ? "1 place" : `${hits.length || "No"} places`;
  };
  input.addEventListener("input", show);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") results.querySelector("a")?.click();
    if (event.key === "Escape") {
      input.value = "";
      show();
    }
  });
  results.addEventListener("click", (event) => {
    if (event.target.closest("a") && contents) input.blur();
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select")) return;
    event.preventDefault();
    input.focus();
  });
}

// What an element says, without its buttons; cells and items do not run into each other.
function* saidIn(element) {
  if (element.matches(".copy, svg")) return;
  const blocks = [...element.children].some((child) => child.matches("tr, td, th, li, p, pre, tbody, thead, code, figcaption"));
  if (!blocks || element.matches("td, th, li, p, pre, figcaption")) yield element.textContent;
  else for (const child of element.children) yield* saidIn(child);
}

function clean(text) {
  return text.replace(/\s+/g, " ").trim();
}

// Every word must be there; in a title it counts more.
function rated(entry, words) {
  const [title, text] = [entry.title.toLowerCase(), entry.text.toLowerCase()];
  const scores = words.map((word) => (title.includes(word) ? 10 : 0) + Math.min(text.split(word).length - 1, 5));
  return { entry, score: scores.includes(0) ? 0 : scores.reduce((sum, score) => sum + score) };
}

function result({ id, title, text }, words) {
  const found = text.toLowerCase().indexOf(words[0]);
  // From the beginning of a word.
  const at = found < 40 ? 0 : Math.min(found, text.indexOf(" ", found - 40) + 1);
  const end = at + 130 < text.length ? text.lastIndexOf(" ", at + 130) : text.length;
  const piece = (at ? "… " : "") + text.slice(at, end > at ? end : at + 130) + (end < text.length ? " …" : "");
  const escaped = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
  const parts = piece.split(new RegExp(`(${escaped})`, "i"));
  const marked = parts.map((part, number) => (number % 2 ? make("mark", { textContent: part }) : part));
  return make("li", {}, make("a", { href: `#${id}` }, make("strong", { textContent: title }), make("span", {}, ...marked)));
}
