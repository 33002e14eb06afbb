// A Plexus client: chats, cancels, handles typed errors, resumes a dropped stream.
// Usage: node client.js [host:port]; PLEXUS_ADDRESS and PLEXUS_API_KEY are read too.

import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const TIMEOUT_MS = 60_000;

const protos = fileURLToPath(new URL("../../protos", import.meta.url));
const { plexus } = grpc.loadPackageDefinition(
  protoLoader.loadSync("plexus/gateway/v1/gateway_service.proto", {
    includeDirs: [protos],
    longs: Number,
    enums: String,
    oneofs: true,
  }),
);

const address = process.argv[2] ?? process.env.PLEXUS_ADDRESS ?? "127.0.0.1:50050";
const gateway = new plexus.gateway.v1.GatewayService(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
if (process.env.PLEXUS_API_KEY) {
  metadata.set("authorization", `Bearer ${process.env.PLEXUS_API_KEY}`);
}

/** Opens a stream and yields its events; the call is cancelled by the signal, or when the loop is left. */
async function* events(request, signal) {
  const call = gateway.chat(request, metadata, { deadline: Date.now() + TIMEOUT_MS });
  call.on("error", () => {}); // who left the loop no longer listens, and Node would end the process
  signal?.addEventListener("abort", () => call.cancel());
  try {
    yield* call;
  } finally {
    call.cancel();
  }
}

/** Returns a request that says `text`. */
function ask(text, { model = "", ...turn } = {}) {
  const messages = [{ role: "ROLE_USER", parts: [{ text }] }];
  return { turn: { request: { model, messages }, ...turn } };
}

/** Prints the answer as it comes. */
async function chat() {
  for await (const { event, ...fields } of events(ask("What can you do for me?"))) {
    if (event === "text") process.stdout.write(fields.text);
    if (event === "reset") process.stdout.write(`\n(once more: ${fields.reset.why})\n`);
    if (event === "failed") throw failure(fields.failed);
    if (event === "completed") {
      const { provider, model } = fields.completed;
      console.log(`\nchat: ok ${provider}/${model}`);
    }
  }
}

/** Leaves an answer in the middle: the mesh stops the model and books what was used. */
async function cancel() {
  const controller = new AbortController();
  const request = ask("Tell me a long story.", { cache: { noCache: true } });
  let run = "";
  try {
    for await (const { event, started } of events(request, controller.signal)) {
      if (event === "started") run = started.requestId;
      if (event === "text") controller.abort();
    }
  } catch (error) {
    if (error.code !== grpc.status.CANCELLED) throw error;
  } // No error: the answer was short, and whole before we cancelled.
  console.log(`cancel: ok ${run}`);
}

/** Fails in both ways: a call that is refused has a status, a turn that breaks a `failed` event. */
async function errors() {
  let reason = "none";
  try {
    for await (const _ of events(ask("Hello.", { scope: { tenant: "someone-else" } })));
  } catch (error) {
    reason = errorInfo(error)?.reason;
  }
  expect(reason, "TENANT_MISMATCH");
  console.log(`error: ${reason}`);

  for await (const { failed } of events(ask("Hello.", { model: "no-such-model" }))) {
    if (failed) reason = failed.reason;
  }
  expect(reason, "MODEL_NOT_FOUND");
  console.log(`error: ${reason}`);
}

/** Loses the connection after the first text and reads the rest, without gap or repetition. */
async function resume() {
  const seen = [];
  const request = ask("Tell me another story.", {
    cache: { noCache: true },
    resumeWindowMs: 10_000,
  });
  for await (const event of events(request)) {
    seen.push(event);
    if (event.event === "text") break;
  }
  const afterSequence = seen.at(-1).sequence;
  console.log(`resume: dropped after event ${afterSequence}`);

  const { resumeToken } = seen[0].started;
  for await (const event of events({ resume: { resumeToken, afterSequence } })) seen.push(event);
  seen.forEach(({ sequence }, at) => expect(sequence, at + 1));
  expect(seen.at(-1).event, "completed");
  console.log(`resume: ok ${seen.length} events`);
}

// gRPC's own library leaves google.rpc.Status undecoded; these are the fields we read.
const { Status, ErrorInfo } = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
`).root.nested;

/** Returns the google.rpc.ErrorInfo of a failed call, if the mesh sent one. */
function errorInfo(error) {
  const [encoded] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const details = encoded ? Status.decode(encoded).details : [];
  const info = details.find(({ typeUrl }) => typeUrl.endsWith("/google.rpc.ErrorInfo"));
  return info && ErrorInfo.decode(info.value);
}

function failure({ reason, message }) {
  return new Error(`${reason}: ${message}`);
}

function expect(got, wanted) {
  if (got !== wanted) throw new Error(`expected ${wanted}, got ${got}`);
}

try {
  await chat();
  await cancel();
  await errors();
  await resume();
} catch (error) {
  console.error(`${errorInfo(error)?.reason ?? "failed"}: ${error.details ?? error.message}`);
  process.exitCode = 1;
} finally {
  gateway.close();
}
