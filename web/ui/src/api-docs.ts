/** The API page: commands to copy, and Swagger UI. It asks no other host. */

import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js";

import "./api-docs.css";
import { getKey } from "./api";
import { type Command, commands, type Schema } from "./commands";

const KEY_SCHEME = "APIKeyHeader"; // its name in the schema

function element<Tag extends keyof HTMLElementTagNameMap>(tag: Tag, content: string | Node[]): HTMLElementTagNameMap[Tag] {
  const created = document.createElement(tag);
  created.append(...(typeof content === "string" ? [content] : content));
  return created;
}

function example({ title, command }: Command): HTMLElement {
  return element("div", [element("h3", title), element("pre", [element("code", command)])]);
}

async function show() {
  const schema = (await (await fetch("/api/openapi.json")).json()) as Schema;
  for (const call of Object.values(schema.paths).flatMap(Object.values)) call.tags = ["Calls"]; // without it the heading is "default"
  document.getElementById("examples")!.replaceChildren(...commands(schema, location.origin).map(example));
  const ui = SwaggerUI({
    dom_id: "#reference",
    spec: schema,
    syntaxHighlight: false, // its colours have too little contrast
    validatorUrl: null, // it would send the schema to another host
    tryItOutEnabled: true,
    displayRequestDuration: true,
    defaultModelsExpandDepth: 0,
    plugins: [{ wrapComponents: { InfoContainer: () => () => null } }], // the page has a heading of its own
    onComplete: () => {
      const key = getKey();
      if (key) ui.preauthorizeApiKey(KEY_SCHEME, key);
    },
  });
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches); // Swagger UI's own class
dark.addEventListener("change", paint);
paint();
show().catch(() => {
  document.getElementById("examples")!.replaceChildren("The description of the API can't be loaded. Reload the page in a moment.");
});
