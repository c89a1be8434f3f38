// Calls the echo service of test_grpc.py with grpc-js, as generated code would: node grpc_js.cjs connect|plain|tls TARGET CASE...
// LIBRARIES_DIRECTORY says where npm has put the library; ROOTS is a file with the roots for `tls`.
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");
const grpc = createRequire(`${process.env.LIBRARIES_DIRECTORY}/`)("@grpc/grpc-js");
const { status } = grpc;

const [way, target, ...cases] = process.argv.slice(2);
const options = {
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  ...(way === "connect" ? {} : { "grpc.enable_http_proxy": 0 }),
};
const roots = way === "tls" ? readFileSync(process.env.ROOTS) : null;
const credentials = way === "plain" ? grpc.credentials.createInsecure() : grpc.credentials.createSsl(roots);
const client = new grpc.Client(target, credentials, options);
const same = (message) => message;
const soon = () => ({ deadline: Date.now() + 60_000 });

const unary = (path, message, metadata = new grpc.Metadata(), callOptions = soon()) =>
  new Promise((resolve) => {
    client.makeUnaryRequest(path, same, same, message, metadata, callOptions, (error, value) => resolve({ error, value }));
  });

const messagesOf = (call) =>
  new Promise((resolve) => {
    const messages = [];
    let ended;
    call.on("data", (message) => messages.push(message));
    call.on("error", (error) => { ended = error; });
    call.on("status", (told) => resolve({ messages, code: (ended ?? told).code }));
  });

function expect(got, wanted) {
  if (got !== wanted) throw new Error(`got ${got}, not ${wanted}`);
}

async function echoes(message) {
  const { error, value } = await unary("/echo/Unary", message);
  if (error) throw error;
  expect(Buffer.compare(value, message), 0);
}

const CASES = {
  empty_unary: () => echoes(Buffer.alloc(0)),
  large_unary: () => echoes(Buffer.alloc(271_828, "abc")),
  huge_unary: () => echoes(Buffer.alloc(64 << 20, "abc")),
  many_unary: () => Promise.all(Array.from({ length: 150 }, (_, each) => echoes(Buffer.from(`${each}`)))),
  custom_metadata: async () => {
    const metadata = new grpc.Metadata();
    metadata.set("x-a", "1");
    metadata.set("b-bin", Buffer.from([0, 255]));
    const { error } = await unary("/echo/Unary", Buffer.from("a"), metadata);
    if (error) throw error;
  },
  client_streaming: async () => {
    const value = await new Promise((resolve, reject) => {
      const call = client.makeClientStreamRequest("/echo/Up", same, same, new grpc.Metadata(), soon(), (error, told) =>
        error ? reject(error) : resolve(told));
      for (const part of ["a", "b", "c"]) call.write(Buffer.from(part));
      call.end();
    });
    expect(value.toString(), "abc");
  },
  server_streaming: async () => {
    const call = client.makeServerStreamRequest("/echo/Down", same, same, Buffer.from("d"), new grpc.Metadata(), soon());
    const { messages, code } = await messagesOf(call);
    expect(code, status.OK);
    expect(messages.join(), "d,d,d,d,d");
  },
  ping_pong: async () => {
    const call = client.makeBidiStreamRequest("/echo/Both", same, same, new grpc.Metadata(), soon());
    let count = 0;
    call.on("data", (message) => {
      expect(message.toString(), `${count}`);
      count += 1;
      if (count < 20) call.write(Buffer.from(`${count}`));
      else call.end();
    });
    call.write(Buffer.from("0"));
    const { code } = await messagesOf(call);
    expect(code, status.OK);
    expect(count, 20);
  },
  empty_stream: async () => {
    const call = client.makeBidiStreamRequest("/echo/Both", same, same, new grpc.Metadata(), soon());
    call.end();
    const { messages, code } = await messagesOf(call);
    expect(code, status.OK);
    expect(messages.length, 0);
  },
  status_code_and_message: async () => {
    const { error } = await unary("/echo/Fail", Buffer.alloc(0));
    expect(error.code, status.FAILED_PRECONDITION);
    expect(error.details, "not like this: \u00e4 100%");
    expect(error.metadata.get("detail-bin")[0].toString("hex"), "00ff");
  },
  unimplemented_method: async () => {
    expect((await unary("/echo/Unknown", Buffer.alloc(0))).error.code, status.UNIMPLEMENTED);
  },
  unimplemented_service: async () => {
    expect((await unary("/other/Unary", Buffer.alloc(0))).error.code, status.UNIMPLEMENTED);
  },
  cancel_after_begin: async () => {
    const code = await new Promise((resolve) => {
      const call = client.makeClientStreamRequest("/echo/Up", same, same, new grpc.Metadata(), soon(), (error) =>
        resolve(error.code));
      call.write(Buffer.from("a"), () => call.cancel());
    });
    expect(code, status.CANCELLED);
  },
  cancel_after_first_response: async () => {
    const call = client.makeBidiStreamRequest("/echo/Both", same, same, new grpc.Metadata(), soon());
    call.on("data", () => call.cancel());
    call.write(Buffer.from("a"));
    expect((await messagesOf(call)).code, status.CANCELLED);
  },
  timeout_on_sleeping_server: async () => {
    const { error } = await unary("/echo/Wait", Buffer.alloc(0), new grpc.Metadata(), { deadline: Date.now() + 500 });
    expect(error.code, status.DEADLINE_EXCEEDED);
  },
  refused: async () => {
    const { error } = await unary("/echo/Unary", Buffer.alloc(0));
    console.log(`${error.code} ${error.details}`);
  },
};

(async () => {
  for (const name of cases) {
    try {
      await CASES[name]();
    } catch (error) {
      console.error(`${name}: ${error.message}`);
      process.exit(1);
    }
  }
  client.close();
})();
