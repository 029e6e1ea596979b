// The tests that SendGrid keeps for its client, out of its package, as they are: what of chai, sinon, nock and mocha they
// ask for is here, and each request goes where the walk says, with the key that is known there.
"use strict";

const Module = require("module");
const assert = require("assert");
const fs = require("fs");
const path = require("path");

const { side, out } = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));

const client = require.resolve("@sendgrid/client");
const Client = require(path.join(path.dirname(client), "src/classes/client"));
const made = Client.prototype.createRequest;
let test = "";
Client.prototype.createRequest = function (data) {
  const request = made.call(this, data);
  request.baseURL = `${side.baseUrl}/`;
  Object.assign(request.headers, { Authorization: `Bearer ${side.key}`, "x-call": test }, side.headers);
  return request;
};

const asked = { matchHeader: () => asked, get: () => asked, reply: () => asked, done() {} };
const nock = Object.assign(() => asked, { cleanAll() {} });
const load = Module._load;
Module._load = (name, ...more) => (name === "nock" ? nock : load(name, ...more));

global.expect = (value) => ({ to: { equal: (wanted) => assert.strictEqual(value, wanted) } });
global.sinon = {
  spy(holder, name) {
    const before = holder[name];
    let calls = 0;
    const spied = (holder[name] = () => void calls++);
    spied.restore = () => void (holder[name] = before);
    Object.defineProperty(spied, "notCalled", { get: () => calls === 0 });
    Object.defineProperty(spied, "calledOnce", { get: () => calls === 1 });
    return spied;
  },
};

const tests = [];
let group = { names: [], before: [], after: [] };
global.describe = (name, body) => {
  const outer = group;
  group = { names: [...outer.names, name], before: [...outer.before], after: [...outer.after] };
  body();
  group = outer;
};
global.beforeEach = (body) => group.before.push(body);
global.afterEach = (body) => group.after.push(body);
global.it = (name, body) => tests.push({ name: [...group.names, name].join(" "), body, group });

global.xit = global.it; // What their mock could not answer.

async function run() {
  const outcomes = {};
  for (const { name, body, group: own } of tests) {
    test = name;
    try {
      own.before.forEach((before) => before());
      await body();
      outcomes[name] = "passed";
    } catch (error) {
      outcomes[name] = `${error.constructor.name}: ${error.message} ${JSON.stringify(error.response?.body ?? null)}`;
    } finally {
      own.after.forEach((after) => after());
    }
  }
  fs.writeFileSync(out, JSON.stringify(outcomes));
}

require(path.join(path.dirname(client), "src/client.spec.js"));
run();
