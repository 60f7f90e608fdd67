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

  #outcomeOf;

  // `outcomeOf` tells what became of a request, by its id: what the gateway's log says.
  static async start(outcomeOf) {
    const browser = new Browser();
    browser.#outcomeOf = outcomeOf;
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
    const failures = [];
    context.on("requestfailed", (request) => allow(request.url()) || failures.push(this.#failureOf(request)));
    const devtools = await context.newCDPSession(page);
    await devtools.send("Network.enable");
    devtools.on("Network.loadingFinished", ({ encodedDataLength }) => (bytes += encodedDataLength));
    try {
      const response = await page.goto(url);
      await use(page, { response, context, bytes: () => bytes });
      wrong.push(...(await Promise.all(failures)).filter(Boolean));
      assert.deepEqual(wrong, [], url);
    } finally {
      await context.close();
    }
  }

  // What is wrong with a request that Chromium calls failed; nothing where it was not. An answer that may not be stored and
  // that a script reads piece by piece counts as aborted if its end comes with its last piece. (A reader of Chromium 156
  // takes the end of the pipe for the end of the request, and lets go of the latter before it has been told; text() waits.
  // That has been seen with a dozen lines of another server.) So all of it must have gone out, says the gateway's log.
  async #failureOf(request) {
    const { errorText } = request.failure();
    const headers = await (await request.response())?.allHeaders().catch(() => null);
    if (errorText === "net::ERR_ABORTED" && headers?.["cache-control"] === "no-store") {
      const outcome = await this.#outcomeOf(headers["x-request-id"]);
      return outcome === "completed" ? null : `${request.url()}: aborted, and ${outcome}`;
    }
    return `${request.url()}: ${errorText}`;
  }
}
