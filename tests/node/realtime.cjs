// The official OpenAI SDK for Node in a realtime session, as in a browser: over wss, its key among the subprotocols.
"use strict";

const { OpenAI } = require("openai");
const { OpenAIRealtimeWebSocket } = require("openai/realtime/websocket");
const { side, walk } = require("./walk.cjs");

const client = new OpenAI({ baseURL: side.baseUrl, apiKey: side.key });

function conversation(turns) {
  return new Promise((resolve, reject) => {
    const done = [];
    const session = new OpenAIRealtimeWebSocket({ model: "gpt-realtime" }, client);
    const ask = () => session.send({ type: "response.create", response: { output_modalities: ["text"] } });
    session.on("error", reject);
    session.on("session.created", ask);
    session.on("response.done", ({ response }) => {
      done.push({ id: response.id, usage: response.usage });
      if (done.length < turns) return ask();
      session.socket.addEventListener("close", () => resolve(done));
      session.close();
    });
  });
}

walk({ conversation: () => conversation(3) });
