// A Chromium, and pages in it that must be silent and stay at home.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const ARGUMENTS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

export const DESKTOP = { width: 1280, height: 900 };
export const PHONE = { width: 390, height: 844 };

export class Browser {
  #browser;
  #folder;

  static async start() {
    const browser = new Browser();
    browser.#folder = await mkdtemp(join(tmpdir(), "ai-proxy-pages-"));
    const environment = { ...process.env, HOME: browser.#folder, XDG_CONFIG_HOME: browser.#folder };
    browser.#browser = await chromium.launch({ executablePath: CHROMIUM, headless: true, args: ARGUMENTS, env: environment });
    return browser;
  }

  async stop() {
    await this.#browser.close();
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 3 });
  }

  // Opens a page, gives it to `use`, and then judges what it said and asked for. `allow` are messages that belong to it.
  async visit(url, options, use, allow = () => false) {
    const origin = new URL(url).origin;
    const context = await this.#browser.newContext({ viewport: DESKTOP, reducedMotion: "reduce", ...options });
    const page = await context.newPage();
    const wrong = [];
    let bytes = 0;
    page.on("console", (message) => allow(message.text()) || wrong.push(`console: ${message.text()}`));
    page.on("pageerror", (error) => wrong.push(`error: ${error}`));
    context.on("request", (request) => new URL(request.url()).origin === origin || wrong.push(`asks ${request.url()}`));
    context.on("requestfailed", (request) => {
      const { errorText } = request.failure();
      // Chromium calls a stream that a script has read to its end aborted, now and then. The gateway's log knows better.
      const readToItsEnd = errorText === "net::ERR_ABORTED" && request.url().endsWith("/v1/chat/completions");
      if (!readToItsEnd && !allow(request.url())) wrong.push(`${request.url()}: ${errorText}`);
    });
    const devtools = await context.newCDPSession(page);
    await devtools.send("Network.enable");
    devtools.on("Network.loadingFinished", ({ encodedDataLength }) => (bytes += encodedDataLength));
    try {
      const response = await page.goto(url);
      await use(page, { response, context, bytes: () => bytes });
      assert.deepEqual(wrong, [], url);
    } finally {
      await context.close();
    }
  }
}
