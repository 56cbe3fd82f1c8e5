/** Commands for the API page, which work against the service that the page comes from. */

/** What the API page needs of the service's OpenAPI schema. */
export interface Schema {
  paths: Record<string, Record<string, { security?: unknown[]; tags?: string[] }>>;
}

export interface Command {
  title: string;
  command: string;
}

const EXAMPLES = [
  { title: "The emotion of a recording", path: "/api/analyze", fields: ["audio=@recording.wav"] },
  { title: "The emotion of a text", path: "/api/analyze", fields: ["text='I got the job!'"] },
  { title: "A long recording: a line of JSON for each utterance, as soon as it is known", path: "/api/utterances", fields: ["audio=@meeting.mp3"] },
  { title: "Feedback: the emotion that is right", path: "/api/feedback", fields: ["audio=@recording.wav", "emotion=sadness", "consent=yes"] },
];

/** Returns a command for each kind of call that the service has; with a header for the key where it wants one. */
export function commands(schema: Schema, origin: string): Command[] {
  return EXAMPLES.filter(({ path }) => schema.paths[path]?.post).map(({ title, path, fields }) => {
    const key = schema.paths[path]!.post!.security ? ["-H 'X-API-Key: KEY'"] : [];
    const stream = path === "/api/utterances" ? ["--no-buffer"] : [];
    const options = [...stream, ...key, ...fields.map((field) => `-F ${field}`)];
    return { title, command: ["curl", ...options, `${origin}${path}`].join(" ") };
  });
}
