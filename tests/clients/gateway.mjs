// `ai-proxy dev` as a child process, for clients to be tested against.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { createInterface } from "node:readline";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const program = process.env.AI_PROXY || here("../../target/debug/ai-proxy");

// Long enough for a debug build on a busy machine; a test that works never waits for it.
export const PATIENCE_MS = 30_000;

// A running gateway: `base` and `key` as its banner tells them, and its log.
export class Gateway {
  #child;
  #log = [];
  #ended = false;
  #news = new EventTarget();

  static async start(settings = {}) {
    const gateway = new Gateway();
    try {
      let banner = "";
      // Nothing of the caller's environment can change what is tested.
      const env = { PATH: process.env.PATH, PORT: "0", SHUTDOWN_GRACE_SECONDS: "1", ...settings };
      gateway.#child = spawn(here("dev.sh"), [program], { env, stdio: ["pipe", "pipe", "inherit"] });
      const lines = createInterface({ input: gateway.#child.stdout });
      lines.on("line", (line) => {
        if (line.startsWith("{")) gateway.#log.push(JSON.parse(line));
        else banner += `${line}\n`;
        gateway.#news.dispatchEvent(new Event("news"));
      });
      lines.on("close", () => {
        gateway.#ended = true;
        gateway.#news.dispatchEvent(new Event("news"));
      });
      await gateway.waitForLog((line) => line.message.startsWith("listening"));
      const exported = banner.match(/export AI_API_BASE='(.+?)' API_KEY='(.+?)'/);
      if (!exported) throw new Error(`the banner has no export line:\n${banner}`);
      [, gateway.base, gateway.key] = exported;
      return gateway;
    } catch (error) {
      await gateway.stop();
      throw error;
    }
  }

  // How many lines there are, for `waitForLog` to begin after.
  get logLength() {
    return this.#log.length;
  }

  // The first line that fits, as soon as there is one.
  async waitForLog(fits, after = 0) {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    for (;;) {
      const line = this.#log.slice(after).find(fits);
      if (line) return line;
      if (this.#ended) throw new Error(`no such line in the log of ${program}: ${JSON.stringify(this.#log.slice(after))}`);
      await once(this.#news, "news", { signal });
    }
  }

  // How the request ended, says the log.
  async outcomeOf(requestId) {
    return (await this.waitForLog((line) => line.request_id === requestId)).outcome;
  }

  // Ends it, and tells its exit code.
  async stop() {
    const exit = once(this.#child, "exit");
    this.#child.stdin.end();
    const [code] = await exit;
    return code;
  }
}
