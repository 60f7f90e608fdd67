// The stock `openai` package against the gateway.

import assert from "node:assert/strict";
import * as runner from "node:test";
import OpenAI from "openai";
import { Gateway, PATIENCE_MS } from "./gateway.mjs";

const GREETING = "Hi there! How can I help you today?";
const MODELS = ["flash", "pro-preview"];
const user = (content) => [{ role: "user", content }];
const HI = user("Say hi.");
const STORY = user("Tell me a story about a rainy evening.");
const SUM = user("What is 2024 plus 1776?");
const ADD = {
  type: "function",
  function: {
    name: "add",
    description: "Adds two numbers.",
    parameters: {
      type: "object",
      properties: { a: { type: "number" }, b: { type: "number" } },
      required: ["a", "b"],
    },
  },
};

// No test hangs; the longest streams for a few seconds.
const test = (name, body) => runner.test(name, { timeout: 120_000 }, body);

let gateway, connection, client;
// One that puts no thought signatures in, so that a client has to bring them back; and a client of it.
let strictGateway, strictClient;

// Without retries: a test that passes at the second try has failed.
const connectedTo = ({ base, key }) => ({ baseURL: base, apiKey: key, maxRetries: 0, timeout: PATIENCE_MS });

runner.before(async () => {
  gateway = await Gateway.start();
  connection = connectedTo(gateway);
  client = new OpenAI(connection);
  strictGateway = await Gateway.start({ THOUGHT_SIGNATURES: "off" });
  strictClient = new OpenAI(connectedTo(strictGateway));
});

runner.after(async () => {
  const codes = await Promise.all([gateway, strictGateway].map((started) => started?.stop()));
  assert.deepEqual(codes, [0, 0], "a gateway did not stop cleanly");
});

const textOf = (chunk) => chunk.choices[0].delta.content ?? "";
const chat = (model, messages, more = {}) => client.chat.completions.create({ model, messages, ...more });

// A stream and the id of its request.
async function streamed(model, messages) {
  const { data, request_id } = await chat(model, messages, { stream: true }).withResponse();
  return { stream: data, requestId: request_id };
}

test("lists models", async () => {
  const { data } = await client.models.list();
  assert.deepEqual(
    data.map(({ id, vertex_id, object, owned_by }) => ({ id, vertex_id, object, owned_by })),
    [
      { id: "flash", vertex_id: "google/gemini-2.5-flash", object: "model", owned_by: "google" },
      { id: "pro-preview", vertex_id: "google/gemini-3.1-pro-preview", object: "model", owned_by: "google" },
    ],
  );
});

for (const alias of MODELS) {
  test(`retrieves ${alias}`, async () => {
    const { data } = await client.models.list();
    const model = await client.models.retrieve(alias);
    assert.equal(model.id, alias);
    assert.deepEqual({ ...model }, { ...data.find(({ id }) => id === alias) });
  });

  test(`chats with ${alias}`, async () => {
    const answer = await chat(alias, HI);
    assert.equal(answer.choices[0].message.content, GREETING);
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.ok(answer.usage.completion_tokens > 0);
  });
}

test("retrieves no unknown model", async () => {
  await assert.rejects(client.models.retrieve("no-such-model"), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
});

test("is configured by what the banner exports", async () => {
  process.env.OPENAI_BASE_URL = gateway.base;
  process.env.OPENAI_API_KEY = gateway.key;
  try {
    const client = new OpenAI({ maxRetries: 0 });
    const answer = await client.chat.completions.create({ model: "flash", messages: HI });
    assert.equal(answer.choices[0].message.content, GREETING);
  } finally {
    delete process.env.OPENAI_BASE_URL;
    delete process.env.OPENAI_API_KEY;
  }
});

test("streams", async () => {
  const whole = await chat("flash", STORY);
  const { stream } = await streamed("flash", STORY);
  const chunks = [];
  let moments = 1;
  let last = performance.now();
  for await (const chunk of stream) {
    const now = performance.now();
    if (now - last > 5) moments += 1;
    last = now;
    chunks.push(chunk);
  }
  assert.equal(chunks.map(textOf).join(""), whole.choices[0].message.content);
  // One by one: had something on the way held them back, many would have come at once.
  assert.ok(moments > chunks.length / 4, `${chunks.length} chunks came in ${moments} moments`);
  assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
  assert.deepEqual(chunks.filter((chunk) => chunk.usage), [chunks.at(-1)]);
  assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
});

// The message with a function call, as the next request has to bring it back.
async function plainCall(client, model, messages) {
  const answer = await client.chat.completions.create({ model, messages, tools: [ADD] });
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  return answer.choices[0].message;
}

// The same from a stream.
async function streamedCall(client, model, messages) {
  const calls = [];
  let finishReason;
  for await (const chunk of await client.chat.completions.create({ model, messages, tools: [ADD], stream: true })) {
    for (const { index, function: piece, ...rest } of chunk.choices[0].delta.tool_calls ?? []) {
      const call = (calls[index] ??= { function: { name: "", arguments: "" } });
      Object.assign(call, rest);
      call.function.name += piece.name ?? "";
      call.function.arguments += piece.arguments ?? "";
    }
    finishReason = chunk.choices[0].finish_reason;
  }
  assert.equal(finishReason, "tool_calls");
  return { role: "assistant", tool_calls: calls };
}

// Does what the model asked for.
function answerCalls(message) {
  return message.tool_calls.map((call) => {
    assert.equal(call.function.name, "add");
    const { a, b, ...rest } = JSON.parse(call.function.arguments);
    assert.deepEqual(rest, {});
    return { role: "tool", tool_call_id: call.id, content: String(a + b) };
  });
}

for (const alias of MODELS) {
  for (const asked of [plainCall, streamedCall]) {
    test(`calls a tool: ${asked.name} with ${alias}`, async () => {
      const message = await asked(strictClient, alias, SUM);
      assert.equal(message.tool_calls.length, 1);
      if (alias === "pro-preview") assert.ok(message.tool_calls[0].extra_content.google.thought_signature);
      const messages = [...SUM, message, ...answerCalls(message)];
      const answer = await strictClient.chat.completions.create({ model: alias, messages, tools: [ADD] });
      assert.equal(answer.choices[0].message.content, "The sum is 3800.");
    });
  }
}

// The SDK's own loop loses the thought signature.
for (const alias of MODELS) {
  test(`has the SDK's own loop call a tool with ${alias}`, async () => {
    const add = { ...ADD.function, parse: JSON.parse, function: ({ a, b }) => a + b };
    const tools = [{ type: "function", function: add }];
    const loop = client.chat.completions.runTools({ model: alias, messages: SUM, tools });
    assert.equal(await loop.finalContent(), "The sum is 3800.");
  });
}

// A conversation with a call whose signature the client has lost.
async function withoutSignature(client, asked) {
  const message = await asked(client, "pro-preview", SUM);
  delete message.tool_calls[0].extra_content;
  return { model: "pro-preview", messages: [...SUM, message, ...answerCalls(message)], tools: [ADD] };
}

for (const asked of [plainCall, streamedCall]) {
  test(`may lose a thought signature: ${asked.name}`, async () => {
    const request = client.chat.completions.create(await withoutSignature(client, asked));
    const { data, response } = await request.withResponse();
    assert.equal(data.choices[0].message.content, "The sum is 3800.");
    assert.equal(response.headers.get("x-ai-proxy-thought-signatures"), "kept=1, skipped=0");
  });
}

test("is told that a thought signature is missing", async () => {
  const request = await withoutSignature(strictClient, plainCall);
  await assert.rejects(strictClient.chat.completions.create(request), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.match(error.message, /is missing a `thought_signature`/);
    return true;
  });
});

test("is told that the key is wrong", async () => {
  const apiKey = "sk_live_not_one_of_the_issued_keys";
  const stranger = new OpenAI({ ...connection, apiKey });
  await assert.rejects(stranger.chat.completions.create({ model: "flash", messages: HI }), (error) => {
    assert.ok(error instanceof OpenAI.AuthenticationError);
    assert.equal(error.status, 401);
    assert.equal(error.code, "invalid_api_key");
    assert.match(error.message, /missing or invalid API key/);
    assert.ok(!JSON.stringify([error.message, error.error, [...error.headers]]).includes(apiKey));
    return true;
  });
});

for (const model of ["no-such-model", "google/gemini-2.5-flash"]) {
  test(`is told that the model is unknown: ${model}`, async () => {
    await assert.rejects(chat(model, HI), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.code, "model_not_found");
      assert.equal(error.param, "model");
      for (const alias of MODELS) assert.ok(error.message.includes(alias), error.message);
      return true;
    });
  });
}

test("is told what upstream refuses", async () => {
  await assert.rejects(chat("flash", user("[emulator:rate-limited]")), (error) => {
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.match(error.message, /Resource exhausted/);
    return true;
  });
});

test("is told that a stream broke", async () => {
  const { stream, requestId } = await streamed("flash", user("[emulator:cut]"));
  const read = async () => {
    for await (const chunk of stream) assert.ok(textOf(chunk));
  };
  await assert.rejects(read(), (error) => {
    assert.ok(error instanceof OpenAI.APIError);
    assert.equal(error.code, "upstream_broke");
    return true;
  });
  assert.equal(await gateway.outcomeOf(requestId), "upstream_broke");
});

test("cancels a stream", async () => {
  const { stream, requestId } = await streamed("flash", STORY);
  let pieces = 0;
  for await (const chunk of stream) {
    assert.ok(textOf(chunk));
    pieces += 1;
    if (pieces === 2) break;
  }
  assert.equal(await gateway.outcomeOf(requestId), "client_hung_up");
});

test("aborts a request before its answer begins", async () => {
  const before = gateway.logLength;
  const request = client.chat.completions.create(
    { model: "flash", messages: user("[emulator:slow]") },
    { signal: AbortSignal.timeout(500) },
  );
  await assert.rejects(request, (error) => error instanceof OpenAI.APIUserAbortError);
  const line = await gateway.waitForLog((line) => line.outcome === "client_hung_up", before);
  assert.equal(line.status, null);
});

test("is not disturbed by comments on a silent stream", async () => {
  const quietGateway = await Gateway.start({ SSE_KEEPALIVE_SECONDS: "1" });
  try {
    const quiet = new OpenAI(connectedTo(quietGateway));
    const request = { model: "flash", messages: user("[emulator:pauses]"), stream: true };
    const raw = await (await quiet.chat.completions.create(request).asResponse()).text();
    assert.ok(raw.split(": keep-alive\n\n").length > 4, raw);
    const { data, request_id } = await quiet.chat.completions.create(request).withResponse();
    let text = "";
    for await (const chunk of data) text += textOf(chunk);
    assert.equal(text, GREETING);
    assert.equal(await quietGateway.outcomeOf(request_id), "completed");
  } finally {
    await quietGateway.stop();
  }
});

test("streams fifty at a time", async () => {
  const count = 50;
  const whole = await chat("flash", STORY);
  let begun = 0;
  let allHaveBegun;
  const barrier = new Promise((resolve) => (allHaveBegun = resolve));
  const one = async () => {
    const { stream } = await streamed("flash", STORY);
    let text = "";
    for await (const chunk of stream) {
      if (text === "") {
        begun += 1;
        if (begun === count) allHaveBegun();
        // Nobody reads on before everybody has begun: one after the other they would never get there.
        await barrier;
      }
      text += textOf(chunk);
    }
    return text;
  };
  const texts = await Promise.all(Array.from({ length: count }, one));
  assert.deepEqual(texts, Array(count).fill(whole.choices[0].message.content));
});
