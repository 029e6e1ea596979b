// The official SendGrid SDK for Node: mail of every shape, templates, errors.
"use strict";

const mail = require("@sendgrid/mail");
const { side, walk } = require("./walk.cjs");

mail.setApiKey(side.key);
mail.client.setDefaultRequest("baseUrl", `${side.baseUrl}/`);
mail.client.setDefaultHeader("x-walk", side.name);

const letter = { to: "ada@example.com", from: "toll@example.com", subject: "Grüße 👋", text: 'A "to": [{"email": "x"}]' };
const answered = ([response]) => ({ status: response.statusCode, body: response.body });
const ask = async (method, url, body) => answered(await mail.client.request({ method, url, body }));

async function asking(wanted, call) {
  for (const [name, value] of Object.entries(wanted)) mail.client.setDefaultHeader(`x-simulator-${name}`, value);
  try {
    return await call();
  } finally {
    for (const name of Object.keys(wanted)) delete mail.client.defaultHeaders[`x-simulator-${name}`];
  }
}

walk({
  "a mail": async () => answered(await mail.send(letter)),
  "to many": async () =>
    answered(
      await mail.send({
        ...letter,
        to: undefined,
        html: "<p>Hello</p>",
        personalizations: [
          { to: ["ada@example.com", { name: "Bob", email: "bob@example.com" }], cc: "cc@example.com" },
          { to: "eve@example.com", bcc: ["one@example.com", "two@example.com"] },
        ],
        attachments: [{ content: Buffer.alloc(300000, "toll").toString("base64"), filename: "bill.txt", type: "text/plain" }],
      }),
    ),
  "to each by itself": async () => answered(await mail.sendMultiple({ ...letter, to: ["a@example.com", "b@example.com", "c@example.com"] })),
  // The SDK makes a request of each; one, since they would go out at once and in any order.
  "a list of mails": async () => (await mail.send([letter])).map(answered),
  "only tried out": async () => answered(await mail.send({ ...letter, mailSettings: { sandboxMode: { enable: true } } })),
  "a template": async () => {
    const made = await ask("POST", "/v3/templates", { name: "Bill", generation: "dynamic" });
    const version = await ask("POST", `/v3/templates/${made.body.id}/versions`, { name: "First", subject: "Toll", active: 1 });
    const sent = answered(await mail.send({ to: letter.to, from: letter.from, templateId: made.body.id, dynamicTemplateData: { n: 7 } }));
    const read = await ask("GET", `/v3/templates/${made.body.id}`);
    return [made, version, sent, read, await ask("DELETE", `/v3/templates/${made.body.id}`)];
  },
  "addresses": async () => [
    await ask("POST", "/v3/validations/email", { email: "ada@example.com", source: "signup" }),
    await ask("POST", "/v3/validations/email", { email: "nowhere" }),
  ],
  "for a subuser": async () => {
    mail.client.setImpersonateSubuser("anna");
    try {
      const made = await ask("POST", "/v3/templates", { name: "Hers", generation: "dynamic" });
      return [made, await ask("GET", `/v3/templates/${made.body.id}`), await ask("DELETE", `/v3/templates/${made.body.id}`)];
    } finally {
      mail.client.setImpersonateSubuser("");
    }
  },
  "to nobody": () => mail.send({ ...letter, to: [] }),
  "to no address": () => mail.send({ ...letter, to: "ada@nowhere" }),
  "too many requests": () => asking({ status: "429" }, () => mail.send(letter)),
  "provider failing": () => asking({ status: "500" }, () => mail.send(letter)),
});
