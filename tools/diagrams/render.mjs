// Draws the diagrams of the runbook: docs/runbook/NAME.mmd becomes NAME.svg beside it. `make diagrams` runs this.
//
// Mermaid, in a Chromium, decides where everything stands. What it draws is full of styles that a strict
// Content-Security-Policy forbids, so that only the places are taken from it: boxes and words, with classes that
// src/pages/web/diagram.css gives colours to. Lines are drawn anew, upright wherever they can be. Alone, as GitHub shows
// it, a file brings that style along; in a page it stands without.

import { createHash } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename } from "node:path";
import { chromium } from "playwright-core";

const root = new URL("../../", import.meta.url);
const sources = new URL("docs/runbook/", root);
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
// Words are measured in a wide font, so that those of every system fit into the boxes.
const FONT = "DejaVu Sans, Verdana, sans-serif";
const LINE_PIXELS = 19;
// What a group gets on top of Mermaid's, for its title. (Mermaid's own setting for that moves boxes away from lines.)
const TITLE_PIXELS = 8;
// How far from a corner of a box a line may begin, and how far from the box its arrow ends.
const CORNER_PIXELS = 18;
const ARROW_PIXELS = 5;

const style = await readFile(new URL("src/pages/web/diagram.css", root), "utf8");
const mermaid = createRequire(import.meta.url).resolve("mermaid/dist/mermaid.min.js");
const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
try {
  const page = await browser.newPage();
  await page.setContent("<!doctype html><body></body>");
  await page.addScriptTag({ path: mermaid });
  for (const file of (await readdir(sources)).filter((file) => file.endsWith(".mmd")).sort()) {
    const name = basename(file, ".mmd");
    const source = await readFile(new URL(file, sources), "utf8");
    const places = await page.evaluate(laidOut, { source, font: FONT });
    await writeFile(new URL(`${name}.svg`, sources), drawn(name, source, places));
    console.log(`docs/runbook/${name}.svg`);
  }
} finally {
  await browser.close();
}

// Runs in the browser: where Mermaid puts what.
async function laidOut({ source, font }) {
  const { mermaid } = window;
  mermaid.initialize({ startOnLoad: false, htmlLabels: false, fontFamily: font, fontSize: 14,
    flowchart: { htmlLabels: false, padding: 9, nodeSpacing: 40, rankSpacing: 44, useMaxWidth: false,
      wrappingWidth: 400 } });
  document.body.innerHTML = (await mermaid.render("diagram", source)).svg;
  const svg = document.querySelector("svg");
  const origin = svg.getBoundingClientRect();
  const box = (element) => {
    const { left, top, width, height } = element.getBoundingClientRect();
    return { x: left - origin.left, y: top - origin.top, width, height };
  };
  const lines = (element) => [...element.querySelectorAll("tspan.row")].map((row) => row.textContent.trim());
  const all = (selector, take) => [...svg.querySelectorAll(selector)].map(take);
  const view = svg.viewBox.baseVal;
  return {
    width: view.width,
    height: view.height,
    groups: all("g.cluster", (group) => ({ ...box(group.querySelector("rect")), lines: lines(group) })),
    nodes: all("g.node", (node) => ({
      ...box(node.querySelector(".label-container, rect, path")),
      lines: lines(node),
      centre: node.classList.contains("centre"),
      round: node.querySelector("rect.basic") === null || Number(node.querySelector("rect.basic").getAttribute("rx")) > 8,
    })),
    edges: all("g.edgePaths path", (path) => {
      const to = path.getCTM().multiply(svg.getCTM()?.inverse() ?? new DOMMatrix());
      const point = (part) => {
        const { x, y } = path.getPointAtLength(path.getTotalLength() * part);
        return { x: x + to.e, y: y + to.f };
      };
      return {
        start: point(0),
        middle: point(0.5),
        end: point(1),
        thick: path.classList.contains("edge-thickness-thick"),
        dashed: path.classList.contains("edge-pattern-dotted"),
        starts: path.hasAttribute("marker-start"),
      };
    }),
    labels: all("g.edgeLabel", (label) => ({ ...box(label.querySelector("text") ?? label), lines: lines(label) }))
      .filter(({ lines }) => lines.join("")),
  };
}

function drawn(name, source, { width, height, groups, nodes, edges, labels }) {
  const out = [];
  const marker = (kind) =>
    `<marker id="${name}-${kind}" class="${kind}" viewBox="0 0 10 10" refX="5" refY="5" markerWidth="9" markerHeight="9" ` +
    `markerUnits="userSpaceOnUse" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z"/></marker>`;
  out.push(`<defs>${marker("arrow")}${marker("arrow-thick")}</defs>`);
  for (const group of groups) {
    group.y -= TITLE_PIXELS;
    group.height += TITLE_PIXELS;
    out.push(`<g class="group">${rect(group, 10)}${words(group.lines, group.x + 14, group.y + 17)}</g>`);
  }
  for (const { thick, dashed, starts, ...edge } of edges) {
    const arrow = `url(#${name}-${thick ? "arrow-thick" : "arrow"})`;
    const kind = ["edge", thick && "thick", dashed && "dashed"].filter(Boolean).join(" ");
    const d = line(edge, nodes, labels, starts);
    out.push(`<path class="${kind}" d="${d}"${starts ? ` marker-start="${arrow}"` : ""} marker-end="${arrow}"/>`);
  }
  for (const label of labels) {
    const around = { x: label.x - 3, y: label.y, width: label.width + 6, height: label.height };
    const inside = groups.some((group) => group.x < label.x && group.y < label.y && label.y < group.y + group.height);
    out.push(`<g class="${inside ? "label" : "label outside"}">${rect(around, 3)}${words(label.lines, ...centre(label), 17)}</g>`);
  }
  for (const node of nodes) {
    const kind = node.centre ? "node centre" : "node";
    out.push(`<g class="${kind}">${rect(node, node.round ? node.height / 2 : 7)}${words(node.lines, ...centre(node))}</g>`);
  }
  const size = `width="${Math.ceil(width)}" height="${Math.ceil(height)}" viewBox="0 0 ${Math.ceil(width)} ${Math.ceil(height)}"`;
  return [
    `<!-- Drawn by \`make diagrams\` from ${name}.mmd, sha256 ${createHash("sha256").update(source).digest("hex")} -->`,
    `<svg xmlns="http://www.w3.org/2000/svg" class="diagram" ${size}>`,
    `<style>`,
    style.trimEnd(),
    `</style>`,
    ...out,
    `</svg>`,
    ``,
  ].join("\n");
}

// A line between two boxes, through the middle of its label. It is one stroke where both boxes and the label allow that;
// else it leaves and enters upright, with a bend in between.
function line({ start, middle, end }, nodes, labels, starts) {
  const [from, to] = [start, end].map((point) => nearest(point, nodes));
  const downwards = from.y < to.y;
  const label = labels.find(({ x, y, width, height }) =>
    Math.abs(middle.x - x - width / 2) < width / 2 && Math.abs(middle.y - y - height / 2) < height / 2 + 12);
  const within = ({ x, width }, at) => Math.min(Math.max(at, x + CORNER_PIXELS), x + width - CORNER_PIXELS);
  let at = label ? label.x + label.width / 2 : middle.x;
  // Where both boxes can be reached, a label steps aside, unless it would stand on another one.
  const straight = within(from, within(to, at));
  if (within(from, straight) === straight) {
    const moved = label && { ...label, x: label.x + straight - at };
    const free = (other) => other === label || other.x > moved.x + moved.width || other.x + other.width < moved.x
      || other.y > moved.y + moved.height || other.y + other.height < moved.y;
    if (!label || labels.every(free)) {
      if (label) label.x = moved.x;
      at = straight;
    }
  }
  const side = ({ y, height }, below, gap) => (below ? y + height + gap : y - gap);
  const [x1, y1] = [within(from, at), side(from, downwards, starts ? ARROW_PIXELS : 0)];
  const [x2, y2] = [within(to, at), side(to, !downwards, ARROW_PIXELS)];
  if (x1 === at && x2 === at) return `M${short(x1)} ${short(y1)}V${short(y2)}`;
  const half = label ? label.y + label.height / 2 : (y1 + y2) / 2;
  const curve = (x, y, tox, toy) => `C${[x, (y + toy) / 2, tox, (y + toy) / 2, tox, toy].map(short).join(" ")}`;
  return `M${short(x1)} ${short(y1)}${curve(x1, y1, at, half)}${curve(at, half, x2, y2)}`;
}

// The box at whose edge a point lies.
function nearest({ x, y }, nodes) {
  const away = (node) =>
    Math.max(node.x - x, x - node.x - node.width, 0) + Math.max(node.y - y, y - node.y - node.height, 0);
  return nodes.reduce((best, node) => (away(node) < away(best) ? node : best));
}

function centre({ x, y, width, height }) {
  return [x + width / 2, y + height / 2];
}

function rect({ x, y, width, height }, radius) {
  const [left, top, wide, high, round] = [x, y, width, height, radius].map(short);
  return `<rect x="${left}" y="${top}" width="${wide}" height="${high}" rx="${round}"/>`;
}

// Lines of text around a middle.
function words(lines, x, y, height = LINE_PIXELS) {
  const first = y - ((lines.length - 1) / 2) * height + 5;
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");
  return lines
    .map((line, number) => `<text x="${short(x)}" y="${short(first + number * height)}">${escaped(line)}</text>`)
    .join("");
}

function short(number) {
  return String(Math.round(number * 10) / 10);
}
