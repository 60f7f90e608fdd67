// The pages in a real browser: how they look is for people to judge, all else is judged here.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { HtmlValidate } from "html-validate";
import { Gateway } from "../clients/gateway.mjs";
import { Browser, DESKTOP, PHONE } from "./browser.mjs";

const GREETING = "Hi there! How can I help you today?";
const require = createRequire(import.meta.url);
const axe = await readFile(require.resolve("axe-core/axe.min.js"), "utf8");
const ROOT = fileURLToPath(new URL("../../", import.meta.url));

let browser, gateway, origin, local, localUrl;

before(async () => {
  [browser, gateway] = await Promise.all([Browser.start((id) => gateway.outcomeOf(id)), Gateway.start({ PLAYGROUND: "on" })]);
  origin = new URL(gateway.base).origin;
  local = spawn("python3", [`${ROOT}html/serve.py`, "0"], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = await once(local.stdout, "data");
  localUrl = line.toString().trim();
});

after(async () => {
  local?.kill();
  await browser?.stop();
  assert.equal(await gateway?.stop(), 0);
});

const PAGES = {
  "the start page": () => `${origin}/`,
  "the runbook": () => `${origin}/docs`,
  "the playground": () => `${origin}/playground`,
  "the local site": () => localUrl,
};

for (const [name, url] of Object.entries(PAGES)) {
  describe(name, () => {
    for (const colorScheme of ["light", "dark"]) {
      for (const [device, viewport] of Object.entries({ desktop: DESKTOP, phone: PHONE })) {
        test(`${colorScheme}, ${device}: silent, accessible, as wide as the screen`, async () => {
          await browser.visit(url(), { colorScheme, viewport }, async (page) => {
            assert.deepEqual(await violations(page), []);
            const { scroll, wide } = await page.evaluate(() => ({
              scroll: document.documentElement.scrollWidth,
              wide: document.documentElement.clientWidth,
            }));
            assert.ok(scroll <= wide, `${scroll} pixels of content on ${wide}`);
            const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
            const [red] = ground.match(/\d+/g).map(Number);
            assert.equal(red > 128 ? "light" : "dark", colorScheme);
          });
        });
      }
    }

    test("fits into 320 pixels, also with letters twice as large", async () => {
      await browser.visit(url(), {}, async (page) => {
        for (const [width, size] of [[320, "100%"], [640, "200%"], [320, "200%"]]) {
          await page.setViewportSize({ width, height: 640 });
          await page.evaluate((size) => document.documentElement.style.setProperty("font-size", size), size);
          const { scrollWidth, clientWidth } = await page.evaluate(() => {
            const { scrollWidth, clientWidth } = document.documentElement;
            return { scrollWidth, clientWidth };
          });
          const beyond = await page.$$eval("body *", (elements) => elements
            .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
            .filter((element) => !element.closest(".wire, .skip, thead, pre code"))
            .map(({ tagName, className, textContent }) => `${tagName}.${className}: ${textContent.trim().slice(0, 40)}`));
          assert.deepEqual(beyond.slice(0, 3), [], `${width} pixels, letters of ${size}`);
          assert.ok(scrollWidth <= clientWidth);
        }
      });
    });

    test("is valid HTML", async () => {
      const html = await (await fetch(url())).text();
      const report = await new HtmlValidate({ extends: ["html-validate:recommended"], rules: RULES }).validateString(html);
      const messages = report.results.flatMap(({ messages }) => messages);
      assert.deepEqual(messages.map(({ line, ruleId, message }) => `${line}: ${ruleId}: ${message}`), []);
    });

    test("every link and anchor leads somewhere", async () => {
      await browser.visit(url(), {}, async (page) => {
        const links = await page.$$eval("a", (links) => links.map(({ href }) => href));
        const ids = new Set(await page.$$eval("[id]", (elements) => elements.map(({ id }) => id)));
        assert.equal(ids.size, await page.$$eval("[id]", ({ length }) => length), "an id stands twice");
        for (const link of new Set(links)) {
          const target = new URL(link);
          if (target.origin !== new URL(url()).origin) {
            assert.equal(target.protocol, "https:", link);
            continue;
          }
          const response = await fetch(target);
          assert.equal(response.status, 200, link);
          if (target.hash) {
            assert.ok((await response.text()).includes(` id="${target.hash.slice(1)}"`), `${link}: no such anchor`);
          }
        }
      });
    });

    test("every stop of the keyboard is seen", async () => {
      await browser.visit(url(), {}, async (page) => {
        const stops = new Set();
        for (let count = 0; count < 40; count++) {
          await page.keyboard.press("Tab");
          const stop = await page.evaluate(() => {
            const element = document.activeElement;
            if (element === document.body) return null;
            const { outlineStyle, outlineWidth } = getComputedStyle(element);
            const { width, height, bottom } = element.getBoundingClientRect();
            const name = `${element.tagName} ${element.textContent.slice(0, 30)} ${element.className}`;
            return { name, seen: width > 0 && height > 0 && bottom > 0 && outlineStyle !== "none" && outlineWidth !== "0px" };
          });
          if (!stop) break;
          assert.ok(stop.seen, `${stop.name} has no outline`);
          stops.add(stop.name);
        }
        assert.ok([...stops][0].includes("Skip to the text"), "the first stop leads past the head");
        assert.ok(stops.size > 4);
      });
    });
  });
}

const RULES = {
  "no-inline-style": "error",
  // A key is no password of this site, for a browser to keep.
  "autocomplete-password": "off",
  "long-title": "off",
  "void-style": ["error", { style: "omit" }],
  "doctype-style": ["error", { style: "lowercase" }],
  // The text of a page is written by people, who know what a non-breaking space is.
  "no-trailing-whitespace": "off",
  "tel-non-breaking": "off",
  // `role` says what has no element: a log, a region.
  "prefer-native-element": ["error", { exclude: ["region", "search", "status"] }],
};

// What axe finds, in its own words.
async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(" | ")}`);
}

describe("without JavaScript", () => {
  const javaScriptEnabled = false;

  test("the start page says all that it has to say", async () => {
    await browser.visit(`${origin}/`, { javaScriptEnabled }, async (page) => {
      for (const text of ["ready", `${gateway.base}`, "google/gemini-2.5-flash", "Get a key"]) {
        await page.getByText(text).first().waitFor({ state: "visible" });
      }
      assert.equal(await page.locator("button").count(), 0, "no button that does nothing");
    });
  });

  test("the runbook is all there", async () => {
    await browser.visit(`${origin}/docs`, { javaScriptEnabled, viewport: PHONE }, async (page) => {
      const sections = await page.locator("main h2").count();
      assert.ok(sections >= 18);
      assert.equal(await page.locator(".contents details a:visible").count(), sections);
      assert.equal(await page.locator("main svg[role=img]").count(), 3);
      assert.equal(await page.locator("button:visible, input:visible").count(), 0);
    });
  });

  test("the playground says that it needs it", async () => {
    await browser.visit(`${origin}/playground`, { javaScriptEnabled }, async (page) => {
      await page.getByText("needs JavaScript").waitFor({ state: "visible" });
    });
  });
});

test("what is transferred is little", async () => {
  for (const [path, most] of [["/", 30_000], ["/docs", 150_000]]) {
    await browser.visit(`${origin}${path}`, {}, async (page, { bytes }) => {
      await page.waitForLoadState("networkidle");
      assert.ok(bytes() > 1_000 && bytes() < most, `${path}: ${bytes()} bytes`);
      // The second time the browser has nearly all of it.
      const first = bytes();
      await page.reload({ waitUntil: "networkidle" });
      assert.ok(bytes() - first < first / 4, `${path}: ${bytes() - first} bytes again`);
    });
  }
});

test("a copy button copies its block", async () => {
  const permissions = ["clipboard-read", "clipboard-write"];
  for (const path of ["/", "/docs"]) {
    await browser.visit(`${origin}${path}`, { permissions }, async (page) => {
      const blocks = page.locator("pre:has(.copy)");
      for (const number of [0, await blocks.count() - 1]) {
        const block = blocks.nth(number);
        await block.hover();
        await block.getByRole("button", { name: "Copy" }).click();
        await block.getByRole("button", { name: "Copied" }).waitFor();
        const copied = await page.evaluate(() => navigator.clipboard.readText());
        assert.equal(copied, await block.locator("code").textContent());
      }
      // By keyboard, and told to those who do not see it.
      await blocks.first().getByRole("button").focus();
      await page.keyboard.press("Enter");
      await page.getByRole("status").filter({ hasText: "Copied to the clipboard" }).waitFor({ state: "attached" });
    });
  }
});

test("copying works where a browser keeps its clipboard from scripts", async () => {
  await browser.visit(`${origin}/docs`, { permissions: ["clipboard-read"] }, async (page) => {
    await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
    await page.locator("pre").first().hover();
    await page.locator(".copy").first().click();
    await page.locator(".copy", { hasText: "Copied" }).waitFor();
  });
});

test("search finds what is in the page, by keyboard alone", async () => {
  for (const viewport of [DESKTOP, PHONE]) {
    await browser.visit(`${origin}/docs`, { viewport }, async (page) => {
      await page.keyboard.press("/");
      await page.keyboard.type("thought_signature");
      const found = page.locator(".results a");
      await found.first().waitFor();
      assert.match(await page.locator("#found").textContent(), /^\d+ places$/);
      assert.equal(await found.first().locator("mark").first().textContent(), "thought_signature");
      assert.deepEqual(await violations(page), []);
      await page.keyboard.press("Enter");
      await page.waitForFunction(() => location.hash.startsWith("#troubleshooting"));
      await page.locator("#search").focus();
      await page.keyboard.press("Escape");
      assert.equal(await found.count(), 0);
      await page.keyboard.type("<img src=x onerror=alert(1)> zzz");
      await page.getByText("No places").waitFor();
      // A query is never taken for a pattern.
      await page.keyboard.press("Escape");
      await page.keyboard.type("(.*");
      await page.getByText("No places").waitFor();
    });
  }
});

test("the contents follow the reader", async () => {
  await browser.visit(`${origin}/docs#cost`, {}, async (page) => {
    await page.locator(".contents a[href='#cost'][aria-current]").waitFor();
    await page.locator("#limits").evaluate((heading) => heading.scrollIntoView());
    await page.locator(".contents a[href='#limits'][aria-current]").waitFor();
    assert.equal(await page.locator(".contents [aria-current]").count(), 1);
  });
});

test("on a phone the contents open and close", async () => {
  await browser.visit(`${origin}/docs`, { viewport: PHONE }, async (page) => {
    const link = page.locator(".contents a[href='#cost']");
    assert.ok(!(await link.isVisible()));
    await page.getByText("Contents", { exact: true }).click();
    await link.click();
    await page.waitForFunction(() => location.hash === "#cost");
    assert.ok(!(await link.isVisible()));
    // Turned, it is a side again.
    await page.setViewportSize(DESKTOP);
    await link.waitFor({ state: "visible" });
  });
});

test("on paper there is the text and nothing to press", async () => {
  await browser.visit(`${origin}/docs`, { colorScheme: "dark" }, async (page) => {
    await page.emulateMedia({ media: "print" });
    assert.equal(await page.locator("button:visible, input:visible, nav:visible").count(), 0);
    const paper = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(paper, "rgb(255, 255, 255)");
    const ink = await page.locator("main p").first().evaluate((text) => getComputedStyle(text).color);
    assert.ok(ink.match(/\d+/g).every((part) => Number(part) < 100), ink);
    const box = await page.locator(".diagram .node rect").first().evaluate((box) => getComputedStyle(box).fill);
    assert.equal(box, "rgb(255, 255, 255)", "a diagram is drawn for paper too");
    assert.ok((await page.pdf()).length > 10_000);
  });
});

test("what moves stands still where that is asked for", async () => {
  for (const [reducedMotion, moves] of [["no-preference", true], ["reduce", false]]) {
    await browser.visit(`${origin}/`, { reducedMotion }, async (page) => {
      assert.equal(await page.evaluate(() => document.getAnimations().some(({ playState }) => playState === "running")), moves);
      const { scrollBehavior } = await page.evaluate(() => ({ ...getComputedStyle(document.documentElement) }));
      assert.equal(scrollBehavior === "smooth", moves);
    });
  }
});

test("no copy button hides a word", async () => {
  for (const viewport of [DESKTOP, PHONE]) {
    await browser.visit(`${origin}/docs`, { viewport, hasTouch: true, isMobile: viewport === PHONE }, async (page) => {
      // Word by word: the blanks before a line that wraps hang over its end, under the button, and nobody misses them.
      const [words, hidden] = await page.$$eval("pre:has(.copy)", (blocks) => {
        let words = 0;
        const hidden = [];
        for (const block of blocks) {
          const button = block.querySelector(".copy").getBoundingClientRect();
          const code = block.querySelector("code");
          const texts = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
          const word = document.createRange();
          while (texts.nextNode()) {
            for (const { 0: { length }, index } of texts.currentNode.data.matchAll(/\S+/g)) {
              word.setStart(texts.currentNode, index);
              word.setEnd(texts.currentNode, index + length);
              const under = (box) =>
                box.right > button.left + 1 && box.left < button.right && box.bottom > button.top + 1 && box.top < button.bottom;
              words += 1;
              if ([...word.getClientRects()].some(under)) hidden.push(`${word} in ${code.textContent.slice(0, 60)}`);
            }
          }
        }
        return [words, hidden];
      });
      assert.ok(words > 500, `${words} words`);
      assert.deepEqual(hidden, []);
    });
  }
});

test("diagrams take the colours of the theme", async () => {
  const colours = new Set();
  for (const colorScheme of ["light", "dark"]) {
    await browser.visit(`${origin}/docs`, { colorScheme }, async (page) => {
      const texts = page.locator(".diagram text");
      assert.ok((await texts.count()) > 20);
      colours.add(await texts.first().evaluate((text) => getComputedStyle(text).fill));
      // Words stay within their boxes.
      const outside = await page.$$eval(".diagram .node", (nodes) =>
        nodes.filter((node) => {
          const box = node.querySelector("rect").getBoundingClientRect();
          return [...node.querySelectorAll("text")].some((text) => {
            const { left, right } = text.getBoundingClientRect();
            return left < box.left || right > box.right;
          });
        }).length);
      assert.equal(outside, 0);
    });
  }
  assert.equal(colours.size, 2);
});

describe("the playground", () => {
  const open = (use, options = {}, allow = undefined) => browser.visit(`${origin}/playground`, options, async (page, more) => {
    await page.getByLabel("Key").fill(gateway.key);
    await page.getByRole("button", { name: "Show models" }).click();
    await page.locator("#alias option[value=flash]").waitFor({ state: "attached" });
    await use(page, more);
  }, allow);
  const said = (page) => page.locator(".said.assistant span:last-child").last();
  const idle = (page) => page.locator("#stop:disabled").waitFor();
  const outcome = async (page) => {
    const [, id] = (await page.locator("#answer").textContent()).match(/^x-request-id: (\w+)$/m);
    return gateway.outcomeOf(id);
  };

  test("streams an answer, and shows what goes over the wire", async () => {
    await open(async (page, { context }) => {
      assert.deepEqual(await page.$$eval("#alias option", (options) => options.map(({ value }) => value)), ["flash", "pro-preview"]);
      await page.getByLabel("Message").fill("Say hi.");
      await page.keyboard.press("Enter");
      // It grows: a part of it is there before all of it is.
      await page.waitForFunction(([greeting]) => {
        const text = document.querySelector(".said.assistant span:last-child")?.textContent;
        return text && text.length < greeting.length && greeting.startsWith(text);
      }, [GREETING]);
      await idle(page);
      assert.equal(await said(page).textContent(), GREETING);
      const request = await page.locator("#request").textContent();
      assert.ok(request.startsWith(`POST /v1/chat/completions HTTP/1.1\nhost: ${new URL(origin).host}\n`));
      const body = JSON.parse(request.split("\n\n")[1]);
      assert.deepEqual([body.model, body.stream, body.messages.at(-1)], ["flash", true, { role: "user", content: "Say hi." }]);
      const answer = await page.locator("#answer").textContent();
      assert.equal(await outcome(page), "completed");
      assert.match(answer, /^HTTP\/1\.1 200/);
      assert.match(answer, /content-type: text\/event-stream/);
      assert.match(answer, /\ndata: \{.*\}\n\ndata: \[DONE\]\n\n$/s);
      assert.match(await page.locator("#first").textContent(), /^[\d.]+ m?s$/);
      assert.match(await page.locator("#tokens-out").textContent(), /^[1-9]\d*$/);
      // The key is written nowhere.
      const html = await page.content();
      assert.ok(!html.includes(gateway.key) && !request.includes(gateway.key));
      assert.deepEqual(await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie, location.search]), [0, 0, "", ""]);
      assert.deepEqual(await context.cookies(), []);
      assert.deepEqual(await violations(page), []);
    });
  });

  test("remembers the conversation, and forgets it", async () => {
    await open(async (page) => {
      await page.getByLabel("Stream").uncheck();
      for (const count of [1, 3]) {
        await page.getByLabel("Message").fill("Say hi.");
        await page.getByRole("button", { name: "Send" }).click();
        await idle(page);
        const request = await page.locator("#request").textContent();
        assert.equal(JSON.parse(request.split("\n\n")[1]).messages.length, count);
        assert.equal(await said(page).textContent(), GREETING);
        assert.match(await page.locator("#answer").textContent(), /content-type: application\/json/);
      }
      await page.getByRole("button", { name: "New chat" }).click();
      assert.equal(await page.locator(".said").count(), 0);
      await page.getByLabel("Message").fill("Say hi.");
      await page.getByRole("button", { name: "Send" }).click();
      await idle(page);
      assert.equal(JSON.parse((await page.locator("#request").textContent()).split("\n\n")[1]).messages.length, 1);
    });
  });

  test("stops", async () => {
    await open(async (page) => {
      const seen = gateway.logLength;
      await page.getByLabel("Message").fill("Describe a rainy evening in three paragraphs.");
      await page.getByRole("button", { name: "Send" }).click();
      await page.waitForFunction(() => document.querySelector(".said.assistant span:last-child")?.textContent.length > 20);
      await page.getByRole("button", { name: "Stop" }).click();
      await page.getByText("stopped").waitFor();
      await gateway.waitForLog((line) => line.outcome === "client_hung_up", seen);
    }, {}, (text) => text.endsWith("/v1/chat/completions"));
  });

  test("what a model says is text, whatever it says", async () => {
    const evil = `<img src=x onerror="window.broken=1"><script>window.broken=1</script>`;
    await open(async (page) => {
      await page.route("**/v1/chat/completions", (route) => route.fulfill({
        contentType: "text/event-stream",
        body: `data: ${JSON.stringify({ choices: [{ delta: { content: evil } }] })}\n\ndata: [DONE]\n\n`,
      }));
      await page.getByLabel("Message").fill(evil);
      await page.getByRole("button", { name: "Send" }).click();
      await idle(page);
      assert.equal(await said(page).textContent(), evil);
      assert.equal(await page.locator("main img, main script").count(), 0);
      assert.equal(await page.evaluate(() => window.broken), undefined);
    });
  });

  const answered = (page, ...events) => page.route("**/v1/chat/completions", (route) => route.fulfill({
    contentType: "text/event-stream",
    body: [...events.map((event) => JSON.stringify(event)), "[DONE]"].map((data) => `data: ${data}\n\n`).join(""),
  }));
  const ask = async (page, words = "Say hi.") => {
    await page.getByLabel("Message").fill(words);
    await page.getByRole("button", { name: "Send" }).click();
    await idle(page);
  };

  test("says why an answer is empty, and does not send it back as a turn", async () => {
    await open(async (page) => {
      await answered(page, { choices: [{ delta: {}, finish_reason: "length" }] });
      await ask(page);
      await page.getByRole("alert").filter({ hasText: "finish_reason is length" }).waitFor();
      await ask(page, "Again.");
      const request = await page.locator("#request").textContent();
      assert.deepEqual(JSON.parse(request.split("\n\n")[1]).messages, [{ role: "user", content: "Again." }]);
    });
  });

  test("a long answer is shown at once, and a reader who has gone back stays there", async () => {
    await open(async (page) => {
      const events = Array.from({ length: 20_000 }, (_, number) => ({ choices: [{ delta: { content: `word ${number} ` } }] }));
      await answered(page, ...events);
      const begin = performance.now();
      await ask(page);
      assert.ok(performance.now() - begin < 15_000, "twenty thousand events do not stop the page");
      assert.ok((await said(page).textContent()).endsWith("word 19999 "));
      assert.ok((await page.locator("#answer").textContent()).endsWith("and more, which is not shown"));
      const end = () => page.locator("#talk").evaluate((talk) => talk.scrollHeight - talk.scrollTop - talk.clientHeight);
      assert.ok((await end()) < 40);
      await page.locator("#talk").evaluate((talk) => (talk.scrollTop = 0));
      await page.unroute("**/v1/chat/completions");
      await page.getByLabel("Message").fill("Describe a rainy evening in three paragraphs.");
      await page.getByRole("button", { name: "Send" }).click();
      await page.locator("#talk").evaluate((talk) => (talk.scrollTop = 0));
      await idle(page);
      assert.equal(await page.locator("#talk").evaluate((talk) => talk.scrollTop), 0);
    });
  });

  test("shows of a key no more than what all keys begin with", async () => {
    const failed = (text) => text.includes("Failed to load resource");
    await browser.visit(`${origin}/playground`, {}, async (page) => {
      for (const [key, shown] of [["sk_live_0123456789abcdef", "sk_live_…"], ["another-kind-of-key-1234", "…"]]) {
        await page.getByLabel("Key").fill(key);
        await page.getByRole("button", { name: "Show models" }).click();
        await page.getByRole("alert").filter({ hasText: "missing or invalid API key" }).waitFor();
        assert.match(await page.locator("#request").textContent(), new RegExp(`^x-api-key: ${shown}$`, "m"));
        await page.getByRole("alert").evaluate((alert) => (alert.hidden = true));
      }
    }, failed);
  });

  test("says what went wrong", async () => {
    const failed = (text) => text.includes("Failed to load resource");
    await browser.visit(`${origin}/playground`, {}, async (page) => {
      await page.getByLabel("Key").fill("sk_live_not-a-key-of-this-gateway");
      await page.getByRole("button", { name: "Show models" }).click();
      await page.getByRole("alert").filter({ hasText: "missing or invalid API key" }).waitFor();
      assert.ok(await page.getByLabel("Message").isDisabled());
    }, failed);
    await open(async (page) => {
      for (const stream of [true, false]) {
        await page.getByLabel("Stream").setChecked(stream);
        await page.getByLabel("Message").fill("[emulator:rate-limited]");
        await page.getByRole("button", { name: "Send" }).click();
        await page.getByRole("alert").filter({ hasText: "Resource exhausted" }).waitFor();
        await idle(page);
        assert.match(await page.locator("#answer").textContent(), /^HTTP\/1\.1 429/);
      }
      await page.getByLabel("Stream").check();
      await page.getByLabel("Message").fill("[emulator:cut]");
      await page.getByRole("button", { name: "Send" }).click();
      await page.getByRole("alert").filter({ hasText: "broke" }).waitFor();
    }, {}, (text) => failed(text) || text.includes("/v1/chat/completions") || text.includes("ERR_INCOMPLETE_CHUNKED"));
  });
});
