// The official Twilio SDK for Node: messages, calls, errors; on an account of the tenant's own also lists.
"use strict";

const twilio = require("twilio");
const { side, walk } = require("./walk.cjs");

const controls = {};

class Asking extends twilio.RequestClient {
  request(options) {
    const makes = options.method === "post" && /(Messages|Calls)\.json$/.test(options.uri);
    const hurried = side.atOnce && makes ? { "x-simulator-step-ms": "0" } : {};
    // Twilio's own hosts are the simulator's, to whoever asks it without the gateway.
    const direct = (_, product) => `${side.baseUrl}/${product}`;
    const uri = side.key.startsWith("tk_") ? options.uri : options.uri.replace(/^https:\/\/([a-z-]+)\.twilio\.com(?=\/)/, direct);
    if (!uri.startsWith(side.baseUrl)) throw new Error(`led past the gateway, to ${uri}`);
    return super.request({ ...options, uri, headers: { ...options.headers, "x-walk": side.name, ...hurried, ...controls } });
  }
}

const client = twilio(side.accountSid, side.key, { httpClient: new Asking() });
client.api.baseUrl = `${side.baseUrl}/api`;
client.messaging.baseUrl = `${side.baseUrl}/messaging`;
client.verify.baseUrl = `${side.baseUrl}/verify`;

async function asking(wanted, call) {
  for (const [name, value] of Object.entries(wanted)) controls[`x-simulator-${name}`] = value;
  try {
    return await call();
  } finally {
    for (const name of Object.keys(controls)) delete controls[name];
  }
}

const parties = { to: "+12025550143", from: "+15005550006" };
const sms = { ...parties, body: "Grüße aus Köln 👋 & 100 % = ganz+gar" };
const pictures = [0, 1, 2].map((n) => `https://example.com/picture-${n}.png?size=big&n=${n}`);
const yesterday = new Date(Date.now() - 86400000);

const main = {
  sms: () => client.messages.create(sms),
  "the longest": () => client.messages.create({ ...parties, body: "x".repeat(1600) }),
  mms: () => client.messages.create({ ...parties, body: "Look", mediaUrl: pictures }),
  whatsapp: () => client.messages.create({ to: `whatsapp:${parties.to}`, from: `whatsapp:${parties.from}`, body: "Hello" }),
  "from a name": () => client.messages.create({ to: "+4915123456789", from: "Toll & Co", body: "Hallo" }),
  "from a service": async () => {
    const service = await client.messaging.v1.services.create({ friendlyName: "Tolls" });
    return [service, await client.messages.create({ to: parties.to, messagingServiceSid: service.sid, body: "Hello" })];
  },
  services: async () => {
    const made = [];
    for (let number = 0; number < 6; number += 1) {
      made.push(await client.messaging.v1.services.create({ friendlyName: `Service ${number}` }));
    }
    return [made, await client.messaging.v1.services(made[0].sid).fetch(), await client.messaging.v1.services(made[5].sid).remove()];
  },
  verification: async () => {
    const service = await client.verify.v2.services.create({ friendlyName: "Tolls" });
    const verify = client.verify.v2.services(service.sid);
    const made = await verify.verifications.create({ to: parties.to, channel: "sms" });
    const checked = await verify.verificationChecks.create({ to: parties.to, code: "123456" });
    return [service, made, checked, await verify.verifications(made.sid).fetch(), await verify.remove()];
  },
  call: () =>
    client.calls.create({ ...parties, url: "https://example.com/twiml?a=1&b=2", statusCallbackEvent: ["initiated", "completed"] }),
  "read, redacted, deleted": async () => {
    const made = await asking({ "step-ms": "0" }, () => client.messages.create(sms));
    const read = await client.messages(made.sid).fetch();
    const redacted = await client.messages(made.sid).update({ body: "" });
    return [made, read, redacted, await client.messages(made.sid).remove()];
  },
  pictures: async () => {
    const made = await client.messages.create({ ...parties, mediaUrl: pictures });
    return client.messages(made.sid).media.list({ pageSize: 2 });
  },
  "no number": () => client.messages.create({ ...sms, to: "12" }),
  "nothing to send": () => client.messages.create(parties),
  "too many requests": () => asking({ status: "429" }, () => client.messages.create(sms)),
  "provider failing": () => asking({ status: "500" }, () => client.messages.create(sms)),
};

const lists = {
  all: () => client.messages.list(),
  "page by page": () => client.messages.list({ pageSize: 2 }),
  "the first three": () => client.messages.list({ pageSize: 2, limit: 3 }),
  "since yesterday": () => client.messages.list({ dateSentAfter: yesterday, pageSize: 2 }),
  "until yesterday": () => client.messages.list({ dateSentBefore: yesterday, pageSize: 2 }),
  "to one number": () => client.messages.list({ to: parties.to, pageSize: 2 }),
  "services, three pages": () => client.messaging.v1.services.list({ pageSize: 2 }),
  "the first three services": () => client.messaging.v1.services.list({ pageSize: 2, limit: 3 }),
  "calls since yesterday": () => client.calls.list({ startTimeAfter: yesterday }),
};

walk(side.lists ? lists : main);
