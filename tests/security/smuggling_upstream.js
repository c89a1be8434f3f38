// An upstream that writes down every request it believes to have received, one line of JSON each.
"use strict";
const https = require("node:https");
const fs = require("node:fs");

const [, , pem, log] = process.argv;
const note = (line) => fs.appendFileSync(log, JSON.stringify(line) + "\n");
const options = { key: fs.readFileSync(pem), cert: fs.readFileSync(pem), keepAliveTimeout: 60_000 };
const server = https.createServer(options, (request, response) => {
  const pieces = [];
  const seen = (complete) => note({
    method: request.method, target: request.url, host: request.headers.host, complete,
    authorization: request.rawHeaders.filter((_, i, all) => i % 2 === 1 && all[i - 1].toLowerCase() === "authorization"),
    content: Buffer.concat(pieces).toString("latin1"),
  });
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => { seen(true); response.end("ok"); });
  request.on("close", () => { if (!request.complete) seen(false); });
});
server.on("checkContinue", (request, response) => { response.writeContinue(); server.emit("request", request, response); });
server.on("checkExpectation", (request, response) => server.emit("request", request, response));
server.on("clientError", (error, socket) => {
  if (error.code && error.code.startsWith("HPE_") && error.code !== "HPE_INVALID_EOF_STATE") note({ malformed: error.rawPacket.toString("latin1").split("\r\n")[0] });
  socket.destroy();
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
