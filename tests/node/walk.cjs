// What the walks share: they are told where to go, and print as JSON what they were told.
"use strict";

const side = JSON.parse(process.argv[2]);

function refused(error) {
  const { name, status, code, message, type, param, moreInfo, details, error: said, response } = error;
  return { raised: error.constructor.name, name, status, code, message, type, param, moreInfo, details, said, body: response?.body };
}

// One call after the other, so that the ledger has them in this order.
async function walk(calls) {
  const told = {};
  for (const [name, call] of Object.entries(calls)) {
    try {
      told[name] = await call();
    } catch (error) {
      told[name] = refused(error);
    }
  }
  process.stdout.write(JSON.stringify(told));
}

module.exports = { side, walk };
