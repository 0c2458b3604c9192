// The methods of one outside client for Node, as in _methods.py: each prints one JSON line.

import { readFileSync } from "node:fs";

export const [CHAT, INSTRUCT, EMBEDDING] = ["gpt-4o-mini", "gpt-3.5-turbo-instruct", "text-embedding-3-small"];
export const TRAINED = "gpt-4o-mini-2024-07-18";
export const QUESTION = "What is the weather in Paris?";
export const WEATHER = {
  type: "object",
  properties: { city: { type: "string", maxLength: 40 }, unit: { type: "string", enum: ["C", "F"] } },
  required: ["city", "unit"],
  additionalProperties: false,
};

export function assert(condition, message = "it is not as expected") {
  if (!condition) throw new Error(typeof message === "string" ? message : JSON.stringify(message));
}

export function isWeather(called) {
  assert(typeof called.city === "string" && ["C", "F"].includes(called.unit), called);
}

export async function waitFor(look, over) {
  const deadline = Date.now() + 1800e3; // as in _methods.py
  for (;;) {
    const seen = await look();
    if (over(seen)) return seen;
    if (Date.now() > deadline) throw new Error(`not over in time: ${JSON.stringify(seen)}`);
    await new Promise((done) => setTimeout(done, 500));
  }
}

/** Runs the methods, an object of async functions by name, or those named in the arguments. */
export async function run(packageName, methods) {
  const card = new URL(`./node_modules/${packageName}/package.json`, import.meta.url);
  console.log(JSON.stringify({ version: JSON.parse(readFileSync(card, "utf8")).version }));
  const chosen = process.argv.slice(2);
  for (const [method, program] of Object.entries(methods)) {
    if (chosen.length && !chosen.includes(method)) continue;
    const started = Date.now();
    let error = null;
    try {
      await program();
    } catch (exc) {
      console.error(exc);
      error = `${exc.name}: ${String(exc.message).replace(/\s+/g, " ")}`.slice(0, 300);
    }
    console.log(JSON.stringify({ method, error, own: false, seconds: Math.round((Date.now() - started) / 100) / 10 }));
  }
}
