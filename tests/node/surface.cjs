// Every method of OpenAI's SDK for Node, found in its tree of resources, with the arguments that the test made.
"use strict";

const fs = require("fs");
const { OpenAI } = require("openai");
const { APIResource } = require("openai/core/resource");

const { side, calls, out } = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));

let call = "";
let heard = [];

async function listening(url, init) {
  init.headers.set("x-call", call);
  const response = await fetch(url, init);
  const copy = response.clone();
  heard.push({ status: response.status, reason: response.statusText, headers: [...response.headers], body: copy.arrayBuffer() });
  return response;
}

const client = new OpenAI({
  baseURL: side.baseUrl,
  apiKey: side.key,
  adminAPIKey: side.key,
  organization: "org-mine",
  project: "proj-mine",
  defaultHeaders: side.headers,
  fetch: listening,
});

// Where the Python SDK has a word in small letters, this one has capitals of its own choice.
const spelt = (path) => path.join(".").replaceAll("_", "").toLowerCase();

const methods = new Map();
function walk(resource, path) {
  const prototype = Object.getPrototypeOf(resource);
  for (const name of Object.getOwnPropertyNames(prototype)) {
    if (name === "constructor" || name.startsWith("_") || typeof prototype[name] !== "function") continue;
    methods.set(spelt([...path, name]), { path: [...path, name], bound: prototype[name].bind(resource), source: prototype[name].toString() });
  }
  branch(resource, path);
}
function branch(from, path) {
  for (const [name, found] of Object.entries(from)) if (found instanceof APIResource) walk(found, [...path, name]);
}
branch(client, []);

// The names of a method's parameters, as its source has them.
function parameters(source) {
  let depth = 0;
  let name = "";
  const found = [];
  for (const character of source.slice(source.indexOf("("))) {
    if ("({[".includes(character)) depth += 1;
    if (")}]".includes(character)) depth -= 1;
    if (depth === 0) return [...found, name].map((one) => one.replace(/^[(\s]+/, "").replace(/\s*=.*$/s, "").trim());
    if (character === "," && depth === 1) {
      found.push(name);
      name = "";
    } else name += character;
  }
}

function file(made) {
  return new File([Buffer.from(made.bytes, "base64")], made.name, { type: made.type, lastModified: 0 });
}
const withFiles = (value) =>
  value === null || typeof value !== "object" ? value
  : "$file" in value ? file(value.$file)
  : Array.isArray(value) ? value.map(withFiles)
  : Object.fromEntries(Object.entries(value).map(([name, item]) => [name, withFiles(item)]));

const PARAMS = ["body", "query", "params"];

function given(source, made) {
  const names = parameters(source);
  const ids = names.filter((name) => !PARAMS.includes(name) && !name.startsWith("{") && name !== "file" && name !== "options");
  return names.map((name) => {
    if (name === "options") return made.options;
    if (name === "file") return file(made.file);
    if (name.startsWith("{")) return { files: [file(made.file)], fileIds: ["file-1"] };
    return PARAMS.includes(name) ? withFiles(made.params) : made.ids[ids.indexOf(name) % made.ids.length];
  });
}

async function all(events) {
  const found = [];
  for await (const event of events) found.push(event);
  return found;
}

async function plain(result) {
  if (result instanceof Response) return { binary: Buffer.from(await result.arrayBuffer()).toString("base64") };
  if (result?.getPaginatedItems) return { page: result.getPaginatedItems(), next: result.hasNextPage() };
  if (result?.[Symbol.asyncIterator]) return { events: await all(result) };
  return { result, id: result?._request_id };
}

async function main() {
  const told = {};
  for (const made of calls) {
    const method = methods.get(spelt([made.method]));
    if (!method) continue;
    call = made.label;
    heard = [];
    let result;
    try {
      result = await plain(await method.bound(...given(method.source, made)));
    } catch (error) {
      const { name, status, code, type, param, message, requestID, error: said } = error;
      result = { raised: error.constructor.name, name, status, code, type, param, message, requestID, said };
    }
    const answers = [];
    for (const one of heard) {
      const body = Buffer.from(await one.body.catch(() => new ArrayBuffer(0))).toString("base64");
      answers.push({ ...one, body });
    }
    told[made.label] = { method: method.path.join("."), result, heard: answers };
  }
  fs.writeFileSync(out, JSON.stringify({ told, methods: [...methods.values()].map((method) => method.path.join(".")) }));
}

main();
