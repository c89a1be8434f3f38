// Calls a URL once with one of the usual libraries, through the proxy that HTTPS_PROXY names, and prints the status.
//
//     node node_libraries.cjs LIBRARY URL
//
// LIBRARIES_DIRECTORY is where npm has put the libraries.

const http = require("node:http");
const https = require("node:https");
const path = require("node:path");
const { createRequire } = require("node:module");

const [library, target] = process.argv.slice(2);
const url = new URL(target);
const proxy = process.env.HTTPS_PROXY;
const load = createRequire(path.join(process.env.LIBRARIES_DIRECTORY ?? ".", "index.js"));

const withAgent = (agent) => new Promise((resolve, reject) => {
  https.get(url, { agent }, (answer) => { answer.resume(); resolve(answer.statusCode); }).on("error", reject);
});

const withUndici = async (name) => {
  const { ProxyAgent, request } = load(name);
  return (await request(url, { dispatcher: new ProxyAgent(proxy) })).statusCode;
};

// What programs write that know of no library: the proxy's own name is the Host of such a CONNECT.
const withNode = () => new Promise((resolve, reject) => {
  const { hostname, port } = new URL(proxy);
  http.request({ host: hostname, port, method: "CONNECT", path: `${url.hostname}:443` })
    .on("connect", (answer, socket) => {
      if (answer.statusCode !== 200) return reject(new Error(`CONNECT was answered with ${answer.statusCode}`));
      https.get(url, { socket, agent: false }, (got) => { got.resume(); resolve(got.statusCode); }).on("error", reject);
    })
    .on("error", reject).end();
});

const CALLS = {
  "undici 5.22": () => withUndici("undici-5-22"),
  "undici 5.28": () => withUndici("undici-5-28"),
  "undici 6.2": () => withUndici("undici-6-2"),
  "undici 7": () => withUndici("undici-7"),
  "undici 7 EnvHttpProxyAgent": async () => {
    const { EnvHttpProxyAgent, fetch } = load("undici-7");
    return (await fetch(url, { dispatcher: new EnvHttpProxyAgent() })).status;
  },
  "https-proxy-agent 7": () => withAgent(new (load("https-proxy-agent").HttpsProxyAgent)(proxy)),
  "hpagent 0.1": () => withAgent(new (load("hpagent-0-1").HttpsProxyAgent)({ proxy })),
  "hpagent 1": () => withAgent(new (load("hpagent-1").HttpsProxyAgent)({ proxy })),
  "tunnel-agent 0.6": () => {
    const { hostname: host, port } = new URL(proxy);
    return withAgent(load("tunnel-agent").httpsOverHttp({ proxy: { host, port } }));
  },
  "axios 1": async () => (await load("axios").get(target)).status,
  "got 11 with hpagent": async () => {
    const agent = { https: new (load("hpagent-1").HttpsProxyAgent)({ proxy }) };
    return (await load("got")(target, { agent, retry: 0 })).statusCode;
  },
  "node:http CONNECT": withNode,
  "global-agent 3": () => {
    process.env.GLOBAL_AGENT_HTTPS_PROXY = process.env.GLOBAL_AGENT_HTTP_PROXY = proxy;
    load("global-agent").bootstrap();
    return withAgent(undefined);
  },
  "fetch": async () => (await fetch(url)).status,
  "node:https": () => withAgent(undefined),
};

CALLS[library]().then((status) => { console.log(status); process.exit(0); }, (error) => {
  console.error(error.cause ?? error);
  process.exit(1);
});
