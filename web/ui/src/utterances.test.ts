import { beforeEach, expect, test, vi } from "vitest";

import { setKey } from "./api";
import { linesOf, long, Stream } from "./fakes";
import { analyzeLong, type LongAnalysis } from "./utterances";

const audio = new Blob(["sound"]);
const never = new AbortController().signal;
const lines = linesOf(long);
let progress: LongAnalysis[];
let stream: Stream;

beforeEach(() => {
  progress = [];
  stream = new Stream();
  vi.stubGlobal("fetch", async () => stream.response);
});

const analyse = () => analyzeLong(audio, never, (answer) => progress.push(answer));

test("analyzeLong sends the recording and the key", async () => {
  const fetched = vi.fn<(path: string, options: RequestInit) => Promise<Response>>(async () => new Response(lines.join("")));
  vi.stubGlobal("fetch", fetched);
  setKey("secret");
  await analyse();
  const [path, options] = fetched.mock.calls[0]!;
  expect(path).toBe("/api/utterances");
  expect([...(options.body as FormData).keys()]).toEqual(["audio"]);
  expect(options.headers).toEqual({ "X-API-Key": "secret" });
});

test("analyzeLong reports the utterances as they arrive, and returns all of them", async () => {
  const answer = analyse();
  stream.send(lines[0]!);
  await vi.waitFor(() => expect(progress).toEqual([{ ...long, utterances: [], complete: false, checkpoint: null }]));
  stream.send(lines[1]!);
  await vi.waitFor(() => expect(progress.at(-1)!.utterances).toEqual(long.utterances.slice(0, 1)));
  stream.send(lines.slice(2).join(""));
  expect(await answer).toEqual(long);
});

test("analyzeLong reads lines and letters that arrive in parts, and a last line without its end", async () => {
  const bytes = new TextEncoder().encode(lines.join("").replace("so it is", "où est-il").trimEnd());
  const parts = new ReadableStream<Uint8Array>({
    start(controller) {
      for (let at = 0; at < bytes.length; at += 5) controller.enqueue(bytes.slice(at, at + 5));
      controller.close();
    },
  });
  vi.stubGlobal("fetch", async () => new Response(parts));
  const answer = await analyse();
  expect(answer.complete).toBe(true);
  expect(answer.utterances[0]!.transcript).toBe("où est-il");
});

test("analyzeLong returns a complete answer whose connection breaks at its end", async () => {
  const parts = [...lines.map((line) => new TextEncoder().encode(line)), null];
  const pull = (controller: ReadableStreamDefaultController<Uint8Array>) => {
    const part = parts.shift();
    if (part) controller.enqueue(part);
    else controller.error(new TypeError("network error"));
  };
  vi.stubGlobal("fetch", async () => new Response(new ReadableStream({ pull })));
  expect(await analyse()).toEqual(long);
});

test("analyzeLong rejects with the error that the service sends in place of the rest", async () => {
  const answer = analyse();
  stream.send(`${lines[0]}${lines[1]}{"type": "error", "code": "late", "message": "The answer took too long."}\n`);
  await expect(answer).rejects.toMatchObject({ code: "late", message: "The answer took too long." });
  expect(progress.at(-1)!.utterances).toHaveLength(1);
  expect(stream.cancel).toHaveBeenCalled();
});

test.each([
  ["ends", () => stream.close()],
  ["breaks", () => stream.fail(new TypeError("network error"))],
  ["has no JSON", () => stream.send("<html>\n")],
])("analyzeLong rejects as away if the response %s before it is complete", async (_, end) => {
  const answer = analyse();
  stream.send(lines[0]! + lines[1]!);
  await vi.waitFor(() => expect(progress).toHaveLength(1));
  end();
  await expect(answer).rejects.toMatchObject({ code: "away", retryAfter: 10 });
});

test("analyzeLong passes on the error of a cancelled request", async () => {
  const answer = analyse();
  stream.send(lines[0]!);
  stream.fail(new DOMException("", "AbortError"));
  await expect(answer).rejects.toMatchObject({ name: "AbortError" });
});

test("analyzeLong rejects with the gateway's code, message and Retry-After", async () => {
  const body = JSON.stringify({ code: "busy", message: "Many people are using this right now." });
  vi.stubGlobal("fetch", async () => new Response(body, { status: 503, headers: { "Retry-After": "2" } }));
  await expect(analyse()).rejects.toMatchObject({ code: "busy", retryAfter: 2 });
});
