import { expect, test } from "vitest";

import { commands } from "./commands";

const ORIGIN = "https://emotion.example.org";

test("commands call the page's own origin", () => {
  const schema = { paths: { "/api/health": { get: {} }, "/api/analyze": { post: {} }, "/api/utterances": { post: {} }, "/api/feedback": { post: {} } } };
  expect(commands(schema, ORIGIN).map(({ command }) => command)).toEqual([
    "curl -F audio=@recording.wav https://emotion.example.org/api/analyze",
    "curl -F text='I got the job!' https://emotion.example.org/api/analyze",
    "curl --no-buffer -F audio=@meeting.mp3 https://emotion.example.org/api/utterances",
    "curl -F audio=@recording.wav -F emotion=sadness -F consent=yes https://emotion.example.org/api/feedback",
  ]);
});

test("calls that the service does not have get no command", () => {
  expect(commands({ paths: { "/api/analyze": { post: {} } } }, ORIGIN)).toHaveLength(2);
});

test("commands send a key where the service wants one", () => {
  const schema = { paths: { "/api/analyze": { post: { security: [{ APIKeyHeader: [] }] } } } };
  expect(commands(schema, ORIGIN)[0]!.command).toBe("curl -H 'X-API-Key: KEY' -F audio=@recording.wav https://emotion.example.org/api/analyze");
});
