// Vercel's AI SDK with its provider for OpenAI, which calls /v1/responses unless told otherwise.

import { embedMany, generateObject, generateText, Output, stepCountIs, streamObject, streamText, tool } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { z } from "zod";
import { CHAT, EMBEDDING, INSTRUCT, QUESTION, assert, isWeather, run } from "./methods.mjs";

const openai = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL });
const schema = z.object({ city: z.string(), unit: z.enum(["C", "F"]) });
const base = { temperature: 0, maxRetries: 0 };
const oneCall = { ...base, prompt: QUESTION, providerOptions: { openai: { parallelToolCalls: false } } };
const weather = () =>
  tool({ description: "The weather of a city.", inputSchema: schema, execute: async ({ city }) => `21 in ${city}` });

async function text(model) {
  const { text, usage } = await generateText({ ...base, model, prompt: "Say this is a test.", maxOutputTokens: 16 });
  assert(text && usage.outputTokens > 0, { text, usage });
}

async function textStream(model) {
  const result = streamText({ ...base, model, prompt: "Say this is a test.", maxOutputTokens: 16, onError() {} });
  let seen = "";
  for await (const part of result.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") seen += part.text;
  }
  assert(seen && seen === (await result.text));
}

/** A second question with the first answer as history; for responses, the SDK refers to it by its id. */
async function conversation(model) {
  const options = { ...base, model, maxOutputTokens: 16 };
  const messages = [{ role: "user", content: "Say this is a test." }];
  const first = await generateText({ ...options, messages });
  messages.push(...first.response.messages, { role: "user", content: "Again." });
  assert((await generateText({ ...options, messages })).text);
}

async function object(model) {
  isWeather((await generateObject({ ...base, model, schema, prompt: QUESTION })).object);
  const { output } = await generateText({ ...base, model, output: Output.object({ schema }), prompt: QUESTION });
  isWeather(output);
}

async function objectStream(model) {
  const result = streamObject({ ...base, model, schema, prompt: QUESTION, onError() {} });
  for await (const _ of result.partialObjectStream);
  isWeather(await result.object);
}

/** The model calls the tool, gets its result, and answers: two requests. */
async function tools(model) {
  const result = await generateText({
    ...oneCall, model, tools: { weather: weather() }, maxOutputTokens: 60, stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
  });
  assert(result.steps.length === 2 && result.steps[0].toolResults.length > 0, result.steps);
  isWeather(result.steps[0].toolCalls[0].input);
}

async function toolsStream(model) {
  const result = streamText({
    ...oneCall, model, tools: { weather: weather() }, toolChoice: "required", onError() {},
  });
  const kinds = new Set();
  for await (const part of result.fullStream) {
    if (part.type === "error") throw part.error;
    kinds.add(part.type);
  }
  assert(kinds.has("tool-input-delta") && kinds.has("tool-result"), [...kinds]);
}

const [responses, chat] = [openai(CHAT), openai.chat(CHAT)];
await run("ai", {
  responses: () => text(responses),
  "responses stream": () => textStream(responses),
  "responses conversation": () => conversation(responses),
  "responses structured output": () => object(responses),
  "responses structured output stream": () => objectStream(responses),
  "responses tools": () => tools(responses),
  "responses tools stream": () => toolsStream(responses),
  chat: () => text(chat),
  "chat stream": () => textStream(chat),
  "chat conversation": () => conversation(chat),
  "structured output": () => object(chat),
  "structured output stream": () => objectStream(chat),
  tools: () => tools(chat),
  "tools stream": () => toolsStream(chat),
  completions: () => text(openai.completion(INSTRUCT)),
  async embeddings() {
    const model = openai.embedding(EMBEDDING);
    assert((await embedMany({ model, values: ["a sky", "a sea"], maxRetries: 0 })).embeddings.length === 2);
  },
});
