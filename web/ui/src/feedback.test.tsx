import { render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, expect, test, vi } from "vitest";

import type { Input } from "./api";
import { Feedback } from "./components/Feedback";

const WORDS = "so it is";
let replies: Response[];
let sent: FormData[];

beforeEach(() => {
  sent = [];
  replies = [new Response(JSON.stringify({ id: "6a1f" }), { status: 201 })];
  vi.stubGlobal("fetch", async (path: string, options: RequestInit) => {
    expect(path).toBe("/api/feedback");
    sent.push(options.body as FormData);
    return replies.shift()!;
  });
});

function rejection(code: string, message: string): Response {
  return new Response(JSON.stringify({ code, message }), { status: 503 });
}

async function open(input: Input) {
  render(<Feedback input={input} offered />);
  await userEvent.click(screen.getByText("This is wrong"));
}

const send = () => userEvent.click(screen.getByRole("button", { name: "Send" }));

async function fill() {
  await userEvent.click(screen.getByRole("radio", { name: "anger" }));
  await userEvent.click(screen.getByRole("checkbox"));
  await send();
}

test("feedback sends the recording, the words, the emotion and the consent", async () => {
  const audio = new Blob(["sound"]);
  await open({ audio, text: WORDS });
  await fill();
  const thanks = await screen.findByText(/Thank you/);
  expect(thanks).toHaveTextContent("Keep this id if you want it deleted later: 6a1f");
  expect(thanks).toHaveFocus();
  const [form] = sent;
  expect([form!.get("emotion"), form!.get("consent"), form!.get("text")]).toEqual(["anger", "yes", WORDS]);
  expect((form!.get("audio") as File).size).toBe(audio.size);
});

test.each([
  [{ text: WORDS }, "the words (“so it is”) and the emotion", ["emotion", "consent", "text"]],
  [{ audio: new Blob(["sound"]), text: "" }, "that the recording and the emotion", ["emotion", "consent", "audio"]],
])("consent names what is stored, and nothing else is sent", async (input, named, fields) => {
  await open(input);
  expect(screen.getByRole("checkbox", { name: new RegExp(named.replace(/[()]/g, "\\$&")) })).not.toBeChecked();
  await fill();
  expect([...sent[0]!.keys()]).toEqual(fields);
});

test("feedback is not sent without an emotion and without consent", async () => {
  await open({ text: WORDS });
  await send();
  await userEvent.click(screen.getByRole("radio", { name: "anger" }));
  await send();
  expect(sent).toHaveLength(0);
});

test("failed feedback can be sent again", async () => {
  replies.unshift(rejection("busy", "Many people are using this right now."));
  await open({ text: WORDS });
  await fill();
  expect(await screen.findByRole("alert")).toHaveTextContent("Many people are using this right now.");
  await userEvent.click(screen.getByRole("button", { name: "Try again" }));
  expect(await screen.findByText(/Thank you/)).toBeInTheDocument();
  expect(screen.queryByRole("alert")).toBeNull();
});

test("closing the error returns the focus to the form", async () => {
  replies.unshift(rejection("full", "This service takes no more recordings."));
  await open({ text: WORDS });
  await fill();
  await userEvent.click(await screen.findByRole("button", { name: "Close" }));
  expect(screen.getByRole("button", { name: "Send" })).toHaveFocus();
});

test("missing key is asked for", async () => {
  replies.unshift(rejection("key", "This service needs an access key."));
  await open({ text: WORDS });
  await fill();
  await userEvent.type(await screen.findByLabelText("Access key"), "sesame");
  await userEvent.click(screen.getByRole("button", { name: "Use this key" }));
  expect(await screen.findByText(/Thank you/)).toBeInTheDocument();
});

test("feedback is offered only where the service stores it, and stays while the service is away", () => {
  const { rerender } = render(<Feedback input={{ text: WORDS }} offered={false} />);
  expect(screen.queryByText("This is wrong")).toBeNull();
  for (const offered of [true, false]) {
    rerender(<Feedback input={{ text: WORDS }} offered={offered} />);
    expect(screen.getByText("This is wrong")).toBeInTheDocument();
  }
});
