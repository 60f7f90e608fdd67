// Draws the diagrams of the runbook: docs/runbook/NAME.mmd becomes NAME.svg beside it. `make diagrams` runs this.
//
// Mermaid, in a Chromium, decides where everything stands. What it draws is full of styles that a strict
// Content-Security-Policy forbids, so that only the places are taken from it: boxes, lines and words, with classes that
// src/pages/web/diagram.css gives colours to. Alone, as GitHub shows it, a file brings that style along; in a page it
// stands without.

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
    flowchart: { htmlLabels: false, padding: 14, nodeSpacing: 56, rankSpacing: 44, useMaxWidth: false,
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
      const { e, f } = path.getCTM();
      const shift = svg.getCTM() ?? { e: 0, f: 0 };
      return {
        d: path.getAttribute("d"),
        x: e - shift.e,
        y: f - shift.f,
        thick: path.classList.contains("edge-thickness-thick"),
        dashed: path.classList.contains("edge-pattern-dotted"),
        starts: path.hasAttribute("marker-start"),
      };
    }),
    labels: all("g.edgeLabel", (label) => ({ ...box(label), lines: lines(label) })).filter(({ lines }) => lines.join("")),
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
  for (const { d, x, y, thick, dashed, starts } of edges) {
    const arrow = `url(#${name}-${thick ? "arrow-thick" : "arrow"})`;
    const kind = ["edge", thick && "thick", dashed && "dashed"].filter(Boolean).join(" ");
    const moved = x || y ? ` transform="translate(${short(x)} ${short(y)})"` : "";
    const path = d.replace(/-?\d+(\.\d+)?/g, (number) => short(Number(number)));
    out.push(`<path class="${kind}" d="${path}"${moved}${starts ? ` marker-start="${arrow}"` : ""} marker-end="${arrow}"/>`);
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
