import { beforeEach, expect, test, vi } from "vitest";

import { analyze, Failure, health, setKey } from "./api";

const never = new AbortController().signal;

function answering(body: unknown, status = 200, headers: Record<string, string> = {}) {
  const fetched = vi.fn<(path: string, options: RequestInit) => Promise<Response>>();
  fetched.mockImplementation(async () => new Response(JSON.stringify(body), { status, headers }));
  vi.stubGlobal("fetch", fetched);
  return fetched;
}

beforeEach(() => vi.unstubAllGlobals());

test("a failure carries the gateway's sentence", async () => {
  answering({ code: "busy", message: "Many people are here." }, 503, { "Retry-After": "2" });
  const failure: unknown = await analyze({ text: "a" }, never).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(Failure);
  expect(failure).toMatchObject({ code: "busy", message: "Many people are here.", retryAfter: 2 });
});

test("an answer that is not the gateway's means that the service is away", async () => {
  vi.stubGlobal("fetch", async () => new Response("<h1>Bad gateway</h1>", { status: 502 }));
  await expect(health()).rejects.toMatchObject({ code: "away" });
});

test("no connection means that the service is away", async () => {
  vi.stubGlobal("fetch", () => Promise.reject(new TypeError("failed to fetch")));
  await expect(health()).rejects.toMatchObject({ code: "away" });
});

test("what is cancelled is no failure", async () => {
  vi.stubGlobal("fetch", () => Promise.reject(new DOMException("", "AbortError")));
  await expect(analyze({ text: "a" }, never)).rejects.toMatchObject({ name: "AbortError" });
});

test("a key is used where the browser forbids storage", async () => {
  const forbid = () => {
    throw new DOMException("", "SecurityError");
  };
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(forbid);
  vi.spyOn(Storage.prototype, "getItem").mockImplementation(forbid);
  const fetched = answering({});
  setKey("secret");
  await analyze({ text: "a" }, never);
  expect(fetched.mock.calls[0]![1].headers).toEqual({ "X-API-Key": "secret" });
});

test("only what is there is sent, with the key", async () => {
  const fetched = answering({});
  setKey("secret");
  await analyze({ audio: new Blob(["sound"]), text: "  " }, never);
  const options = fetched.mock.calls[0]![1];
  expect([...(options.body as FormData).keys()]).toEqual(["audio"]);
  expect(options.headers).toEqual({ "X-API-Key": "secret" });
});
