// The official OpenAI SDK for Node: plain and streamed answers, objects, errors.
"use strict";

const { OpenAI } = require("openai");
const { side, walk } = require("./walk.cjs");

const client = new OpenAI({
  baseURL: side.baseUrl,
  apiKey: side.key,
  maxRetries: 0,
  defaultHeaders: { "x-walk": side.name },
});

const messages = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Grüße aus Köln 👋, wie geht's?" },
];
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } } }];
const chat = { model: "gpt-4o", messages };
const asking = (controls) => ({
  headers: Object.fromEntries(Object.entries(controls).map(([name, value]) => [`x-simulator-${name}`, value])),
});

async function all(stream) {
  const events = [];
  for await (const event of await stream) events.push(event);
  return events;
}

walk({
  chat: () => client.chat.completions.create(chat),
  "chat with tools": () => client.chat.completions.create({ ...chat, tools }),
  "long chat, compressed": () => client.chat.completions.create(chat, asking({ words: "900" })),
  "streamed chat": () => all(client.chat.completions.create({ ...chat, stream: true })),
  "streamed chat, usage asked for": () =>
    all(client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } })),
  "streamed chat byte by byte": () =>
    all(client.chat.completions.create({ ...chat, stream: true }, asking({ sse: "byte-by-byte", words: "5" }))),
  response: () => client.responses.create({ model: "gpt-5", input: "Hello" }),
  "streamed response": () => all(client.responses.create({ model: "gpt-5", input: "Hello", stream: true })),
  completion: () => client.completions.create({ model: "gpt-3.5-turbo-instruct", prompt: "Once" }),
  embedding: () => client.embeddings.create({ model: "text-embedding-3-small", input: ["one", "two"] }),
  "a response, read and deleted": async () => {
    const made = await client.responses.create({ model: "gpt-5", input: "Hello", store: true });
    const read = await client.responses.retrieve(made.id);
    const items = await client.responses.inputItems.list(made.id);
    await client.responses.delete(made.id);
    return [made, read, items.data];
  },
  "unknown model": () => client.chat.completions.create({ model: "gpt-none", messages }),
  "no messages": () => client.chat.completions.create({ model: "gpt-4o", messages: [] }),
  "too many requests": () => client.chat.completions.create(chat, asking({ status: "429" })),
  "provider failing": () => client.responses.create({ model: "gpt-5", input: "Hello" }, asking({ status: "503" })),
  "a stream that breaks off": () => all(client.chat.completions.create({ ...chat, stream: true }, asking({ fault: "cut-stream" }))),
});
