// A program that calls an API with Node, and knows nothing of OAuth.
//
//     node node_client.mjs http|fetch|undici
//
// The protocol of standard input and output is that of python_client.py. The proxy comes from HTTP_PROXY and HTTPS_PROXY,
// the CA from NODE_EXTRA_CA_CERTS, which Node reads itself.

import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import net from "node:net";
import { text } from "node:stream/consumers";
import tls from "node:tls";

const proxyFor = (url) => {
  const proxy = process.env[url.protocol === "https:" ? "HTTPS_PROXY" : "HTTP_PROXY"];
  return proxy ? new URL(proxy) : null;
};

const port = (url) => url.port || (url.protocol === "https:" ? 443 : 80);

// Opens a tunnel (RFC 9110 §9.3.6); the callback gets an error, or the socket.
function connect(proxy, authority, done) {
  const request = http.request({
    host: proxy.hostname, port: proxy.port, method: "CONNECT", path: authority, headers: { host: authority }, agent: false,
  });
  request.on("connect", (response, socket) => {
    if (response.statusCode === 200) return done(null, socket);
    socket.destroy();
    done(new Error(`CONNECT was answered with ${response.statusCode}`));
  });
  request.on("error", done).end();
}

// node:http and node:https, the way programs did it before there was fetch: absolute-form for http, a tunnel for https.
function callWithHttp({ method, url, content, fields }) {
  return new Promise((resolve, reject) => {
    const proxy = proxyFor(url);
    const options = { method, headers: { ...fields, "Content-Length": content.length }, agent: false };
    const send = (request) => {
      request.on("error", reject).on("response", (response) => {
        const parts = [];
        response.on("error", reject).on("data", (part) => parts.push(part)).on("end", () => {
          const raw = response.rawHeaders;
          const pairs = raw.filter((_, index) => index % 2 === 0).map((name, index) => [name, raw[2 * index + 1]]);
          resolve([response.statusCode, response.statusMessage, pairs, Buffer.concat(parts).toString("base64")]);
        });
      });
      request.end(content);
    };
    if (proxy === null) {
      send(https.request(url, options));
    } else if (url.protocol === "http:") {
      const headers = { Host: url.host, ...options.headers };
      send(http.request({ ...options, headers, host: proxy.hostname, port: proxy.port, path: url.href }));
    } else {
      connect(proxy, `${url.hostname}:${port(url)}`, (error, socket) => {
        if (error) return reject(error);
        const secured = () => tls.connect({ socket, servername: url.hostname });
        send(https.request(url, { ...options, agent: undefined, createConnection: secured }));
      });
    }
  });
}

// What fetch gives: names in lower case, values joined, Set-Cookie apart.
async function callWith(fetch, dispatcher, { method, url, content, fields }) {
  const body = content.length > 0 ? content : undefined;
  const response = await fetch(url, { method, body, headers: fields, dispatcher });
  const received = Buffer.from(await response.arrayBuffer()).toString("base64");
  return [response.status, response.statusText, [...response.headers], received];
}

// The fetch that Node has built in takes a dispatcher, but exports none: its global one shows the class.
async function makeDispatcher() {
  await fetch("data:,");
  const { constructor: Agent } = globalThis[Symbol.for("undici.globalDispatcher.1")];
  return new Agent({
    connect(options, done) {
      const url = new URL(`${options.protocol}//${options.host}`);
      const secure = (socket) => {
        const secured = tls.connect({ socket, servername: options.hostname, ALPNProtocols: ["http/1.1"] });
        secured.once("secureConnect", () => done(null, secured)).once("error", (error) => done(error, null));
      };
      const use = (socket) => (url.protocol === "https:" ? secure(socket) : done(null, socket));
      const proxy = proxyFor(url);
      if (proxy === null) {
        const socket = net.connect({ host: url.hostname, port: port(url) });
        socket.once("connect", () => use(socket)).once("error", (error) => done(error, null));
      } else {
        connect(proxy, `${url.hostname}:${port(url)}`, (error, socket) => (error ? done(error, null) : use(socket)));
      }
    },
  });
}

async function chooseCaller(kind) {
  if (kind === "http") return callWithHttp;
  if (kind === "fetch") {
    const dispatcher = await makeDispatcher();
    return (call) => callWith(fetch, dispatcher, call);
  }
  const undici = createRequire(`${process.env.UNDICI_DIRECTORY}/`)("undici");
  const dispatcher = new undici.EnvHttpProxyAgent();
  return (call) => callWith(undici.fetch, dispatcher, call);
}

const calls = (await text(process.stdin)).trimEnd().split("\n").map((line) => {
  const [method, url, content, ...fields] = line.split("\t");
  const names = fields.filter((_, index) => index % 2 === 0);
  return {
    method,
    url: new URL(url),
    content: Buffer.from(content, "base64"),
    fields: Object.fromEntries(names.map((name, index) => [name, fields[2 * index + 1]])),
  };
});
const caller = await chooseCaller(process.argv[2]);
for (const call of calls) console.log(JSON.stringify(await caller(call)));
process.stdout.write("", () => process.exit(0)); // idle connections would keep it for a few seconds more
