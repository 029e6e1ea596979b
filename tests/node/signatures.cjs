// The official Twilio SDK for Node as a judge: which of the deliveries in a file does its validator take for Twilio's?
"use strict";

const fs = require("fs");
const { validateRequest, validateRequestWithBody } = require("twilio");

const deliveries = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));

process.stdout.write(
  JSON.stringify(
    deliveries.map(({ token, url, told, parameters, body }) =>
      body === null ? validateRequest(token, told, url, parameters) : validateRequestWithBody(token, told, url, body),
    ),
  ),
);
