import { beforeEach, expect, test, vi } from "vitest";

import { analyze, ApiError, health, setKey } from "./api";

const never = new AbortController().signal;

/** Makes fetch return this answer, and returns the mock. */
function stubFetch(body: unknown, status = 200, headers: Record<string, string> = {}) {
  const fetched = vi.fn<(path: string, options: RequestInit) => Promise<Response>>();
  fetched.mockImplementation(async () => new Response(JSON.stringify(body), { status, headers }));
  vi.stubGlobal("fetch", fetched);
  return fetched;
}

beforeEach(() => vi.unstubAllGlobals());

test("analyze rejects with the gateway's code, message and Retry-After", async () => {
  stubFetch({ code: "busy", message: "Many people are using this right now." }, 503, { "Retry-After": "2" });
  const rejected: unknown = await analyze({ text: "a" }, never).catch((error: unknown) => error);
  expect(rejected).toBeInstanceOf(ApiError);
  expect(rejected).toMatchObject({ code: "busy", message: "Many people are using this right now.", retryAfter: 2 });
});

test("health rejects an answer that is not the gateway's as unreachable", async () => {
  vi.stubGlobal("fetch", async () => new Response("<h1>Bad gateway</h1>", { status: 502 }));
  await expect(health()).rejects.toMatchObject({ code: "away" });
});

test("health rejects a failed connection as unreachable", async () => {
  vi.stubGlobal("fetch", () => Promise.reject(new TypeError("failed to fetch")));
  await expect(health()).rejects.toMatchObject({ code: "away" });
});

test("analyze passes on the error of a cancelled request", async () => {
  vi.stubGlobal("fetch", () => Promise.reject(new DOMException("", "AbortError")));
  await expect(analyze({ text: "a" }, never)).rejects.toMatchObject({ name: "AbortError" });
});

test("setKey keeps the key if the browser forbids storage", async () => {
  const forbid = () => {
    throw new DOMException("", "SecurityError");
  };
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(forbid);
  vi.spyOn(Storage.prototype, "getItem").mockImplementation(forbid);
  const fetched = stubFetch({});
  setKey("secret");
  await analyze({ text: "a" }, never);
  expect(fetched.mock.calls[0]![1].headers).toEqual({ "X-API-Key": "secret" });
});

test("analyze sends only fields with content, and the key", async () => {
  const fetched = stubFetch({});
  setKey("secret");
  await analyze({ audio: new Blob(["sound"]), text: "  " }, never);
  const options = fetched.mock.calls[0]![1];
  expect([...(options.body as FormData).keys()]).toEqual(["audio"]);
  expect(options.headers).toEqual({ "X-API-Key": "secret" });
});
