// A chat with this gateway, and what goes over the wire for it. The key is in a variable and nowhere else. What a model
// says becomes text nodes, never HTML.
"use strict";

const at = (id) => document.getElementById(id);
const [setup, key, alias, stream, problem] = ["setup", "key", "alias", "stream", "problem"].map(at);
const [talk, composer, message, send, stop, clear] = ["talk", "composer", "message", "send", "stop", "clear"].map(at);
const [requestPane, answerPane] = ["request", "answer"].map(at);

// An answer on the wire may be long; a page should not become slow of it.
const SHOWN_CHARACTERS = 200_000;

at("needs-script").remove();

let history = [];
let running = null;

setup.addEventListener("submit", async (event) => {
  event.preventDefault();
  complain();
  const request = { method: "GET", path: "/v1/models", headers: { "x-api-key": key.value.trim() } };
  try {
    const response = await ask(request);
    const text = await response.text();
    showAnswer(response, text);
    if (!response.ok) return complain(errorOf(text) ?? `status ${response.status}`);
    const models = JSON.parse(text).data;
    alias.replaceChildren(...models.map(({ id, vertex_id: vertex }) => new Option(`${id} → ${vertex}`, id)));
    alias.value = models.some(({ id }) => id === "flash") ? "flash" : models[0]?.id;
    for (const control of [alias, message, send, clear]) control.disabled = models.length === 0;
    message.focus();
  } catch (error) {
    complain(error.message);
  }
});

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) chat();
});

message.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    composer.requestSubmit();
  }
});

stop.addEventListener("click", () => running?.abort());

clear.addEventListener("click", () => {
  running?.abort();
  history = [];
  talk.replaceChildren();
  message.focus();
});

async function chat() {
  complain();
  const turn = [...history, { role: "user", content: message.value }];
  const mine = history;
  const body = { model: alias.value, messages: turn };
  if (stream.checked) Object.assign(body, { stream: true, stream_options: { include_usage: true } });
  const headers = { "content-type": "application/json", "x-api-key": key.value.trim() };
  say("user", message.value);
  message.value = "";
  const words = say("assistant", "");
  const numbers = new Numbers();
  running = new AbortController();
  busy(true);
  try {
    const request = { method: "POST", path: "/v1/chat/completions", headers, body: JSON.stringify(body) };
    const response = await ask(request, running.signal);
    const answer = await read(response, (text) => {
      numbers.firstToken();
      following(talk, () => words.append(text));
    });
    numbers.usage(answer.usage);
    if (answer.error) complain(answer.error);
    else if (!answer.message) complain(`an answer without a word; its finish_reason is ${answer.reason ?? "missing"}`);
    // Not if a new chat was begun meanwhile.
    if (history === mine && answer.message) history = [...turn, answer.message];
  } catch (error) {
    complain(error.name === "AbortError" ? "stopped" : error.message);
  } finally {
    numbers.end();
    running = null;
    busy(false);
    message.focus();
  }
}

// Sends a request, and shows it as it goes out, but for the key.
function ask({ method, path, headers, body }, signal) {
  const lines = Object.entries({ host: location.host, ...headers }).map(([name, value]) =>
    name === "x-api-key" ? `${name}: ${value.startsWith("sk_live_") ? "sk_live_" : ""}…` : `${name}: ${value}`);
  requestPane.textContent = [`${method} ${path} HTTP/1.1`, ...lines, "", body ?? ""].join("\n");
  answerPane.textContent = "";
  return fetch(path, { method, headers, body, signal, cache: "no-store", credentials: "omit", redirect: "error" });
}

// Reads an answer of either kind as it comes. `hear` is called with the text of each piece.
async function read(response, hear) {
  showAnswer(response, "");
  const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  const answer = { message: null, usage: null, error: null, reason: null };
  let [all, shown, content, heard, rest] = ["", 0, "", "", ""];
  const take = (data) => {
    if (data.usage) answer.usage = data.usage;
    if (data.error) answer.error = data.error.message ?? "an error without a message";
    const choice = data.choices?.[0];
    if (choice?.finish_reason) answer.reason = choice.finish_reason;
    const text = choice?.delta?.content ?? choice?.message?.content;
    if (typeof text === "string") heard += text;
  };
  // Once for all events that have come together: a page that shows each for itself falls behind.
  const tell = () => {
    if (heard) hear(heard);
    content += heard;
    heard = "";
  };
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      // A stream that broke says why in its last event, which a browser may drop: its own words are "network error".
      if (error.name === "AbortError") throw error;
      answer.error ??= "the connection broke before the answer was complete";
      return { done: true };
    });
    const text = decoder.decode(value, { stream: !done });
    if (shown < SHOWN_CHARACTERS) {
      following(answerPane, () => answerPane.append(text.slice(0, SHOWN_CHARACTERS - shown)));
      shown += text.length;
      if (shown >= SHOWN_CHARACTERS) answerPane.append("\n… and more, which is not shown");
    }
    if (isStream) {
      const events = (rest + text).split(/\r?\n\r?\n/);
      rest = events.pop();
      for (const event of events) {
        const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
        if (data && data !== "[DONE]") take(JSON.parse(data));
      }
      tell();
    } else all += text;
    if (done) break;
  }
  if (!isStream) {
    if (response.ok) take(JSON.parse(all));
    else answer.error = errorOf(all) ?? `status ${response.status}`;
    tell();
  }
  // An empty turn, which a model would refuse in the next request, is none.
  if (!answer.error && content) answer.message = { role: "assistant", content };
  return answer;
}

function showAnswer(response, text) {
  const headers = [...response.headers].map(([name, value]) => `${name}: ${value}`);
  answerPane.textContent = [`HTTP/1.1 ${response.status} ${response.statusText}`, ...headers, "", text].join("\n");
}

function errorOf(text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return null;
  }
}

// Adds to what scrolls, and stays at its end, unless the reader has gone back.
function following(pane, add) {
  const isAtEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 40;
  add();
  if (isAtEnd) pane.scrollTop = pane.scrollHeight;
}

function say(who, text) {
  const said = document.createElement("p");
  said.className = `said ${who}`;
  const name = document.createElement("span");
  name.className = "who";
  name.textContent = who === "user" ? "you" : alias.value;
  const words = document.createElement("span");
  words.textContent = text;
  said.append(name, words);
  talk.append(said);
  talk.scrollTop = talk.scrollHeight;
  return words;
}

function complain(text = "") {
  problem.textContent = text;
  problem.hidden = !text;
}

function busy(yes) {
  send.disabled = yes;
  stop.disabled = !yes;
}

// What an answer has cost in time and tokens.
class Numbers {
  #start = performance.now();
  #first = null;

  constructor() {
    for (const id of ["first", "total", "tokens-in", "tokens-out", "tokens-thinking"]) at(id).textContent = "–";
  }

  firstToken() {
    this.#first ??= performance.now() - this.#start;
    at("first").textContent = milliseconds(this.#first);
  }

  end() {
    at("total").textContent = milliseconds(performance.now() - this.#start);
  }

  usage(usage) {
    if (!usage) return;
    at("tokens-in").textContent = usage.prompt_tokens ?? 0;
    at("tokens-out").textContent = usage.completion_tokens ?? 0;
    at("tokens-thinking").textContent = usage.completion_tokens_details?.reasoning_tokens ?? 0;
  }
}

const milliseconds = (time) => (time < 1000 ? `${Math.round(time)} ms` : `${(time / 1000).toFixed(1)} s`);
