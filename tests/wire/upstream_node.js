// An upstream on Node's own HTTP server: says what reached it, and answers in the ways Node has.
"use strict";
const https = require("node:https");
const fs = require("node:fs");

const [, , pem] = process.argv;
const answers = {
  "/echo": (request, response, content) => {
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify({
      method: request.method, target: request.url, fields: request.rawHeaders.filter((_, i) => i % 2 === 0),
      content: content.toString("latin1"), trailers: request.rawTrailers,
    }));
  },
  "/chunks": (_, response) => { for (let i = 0; i < 20; i++) response.write(`piece ${i};`); response.end(); },
  "/trailers": (_, response) => {
    response.setHeader("Trailer", "X-Sum, Server-Timing");
    response.write("content");
    response.addTrailers({ "X-Sum": "1", "Server-Timing": "a;dur=1" });
    response.end();
  },
  "/hints": (_, response) => { response.writeEarlyHints({ link: "</a.css>; rel=preload" }); response.end("hinted"); },
  "/processing": (_, response) => { response.writeProcessing(); response.end("processed"); },
  "/cookies": (_, response) => { response.setHeader("Set-Cookie", ["a=1; Path=/", "b=2", "a=3"]); response.end("set"); },
  "/status": (_, response) => { response.writeHead(599, "Nobody knows"); response.end("599"); },
  "/none": (_, response) => { response.writeHead(204); response.end(); },
  "/unchanged": (_, response) => { response.writeHead(304, { ETag: '"x"' }); response.end(); },
  "/close": (_, response) => { response.setHeader("Connection", "close"); response.end("closing"); },
  "/large": (_, response) => { response.end(Buffer.alloc(300_000, "large ")); },
};
const options = { key: fs.readFileSync(pem), cert: fs.readFileSync(pem), insecureHTTPParser: false };
const server = https.createServer(options, (request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => {
    const path = request.url.split("?")[0];
    (answers[path] || answers["/echo"])(request, response, Buffer.concat(pieces));
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
