// OpenAI's official SDK for Node.

import OpenAI, { toFile } from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { CHAT, EMBEDDING, INSTRUCT, QUESTION, TRAINED, WEATHER, assert, isWeather, run, waitFor } from "./methods.mjs";

const client = new OpenAI();
const Weather = z.object({ city: z.string(), unit: z.enum(["C", "F"]) });
const messages = [{ role: "user", content: "Say this is a test." }];
const asked = [{ role: "user", content: QUESTION }];
const tools = [{ type: "function", function: { name: "get_weather", parameters: WEATHER, strict: true } }];
const chat = { model: CHAT, temperature: 0 };

async function upload(rows, purpose) {
  const lines = rows.map((row) => JSON.stringify(row) + "\n").join("");
  return client.files.create({ file: await toFile(Buffer.from(lines), "stories.jsonl"), purpose });
}

function conversations() {
  return [...Array(10).keys()].map((n) => ({
    messages: [
      { role: "user", content: `hero ${n}` },
      { role: "assistant", content: `the hero ${n}.` },
    ],
  }));
}

await run("openai", {
  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert(ids.includes(CHAT) && ids.includes(TRAINED), ids);
    assert((await client.models.retrieve(CHAT)).id === CHAT);
  },
  async chat() {
    const answer = await client.chat.completions.create({ ...chat, messages, max_completion_tokens: 8 });
    assert(answer.choices[0].message.content && answer.usage.completion_tokens > 0, answer);
  },
  async "chat stream"() {
    const stream = await client.chat.completions.create({ ...chat, messages, max_tokens: 8, stream: true });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    assert(text);
  },
  async "chat stream helper"() {
    const runner = client.chat.completions.stream({ ...chat, messages, max_tokens: 8 });
    assert((await runner.finalContent()) && (await runner.finalChatCompletion()).model === CHAT);
  },
  async "structured output"() {
    const response_format = zodResponseFormat(Weather, "weather");
    const answer = await client.chat.completions.parse({ ...chat, messages: asked, response_format });
    isWeather(answer.choices[0].message.parsed);
  },
  async tools() {
    const called = await client.chat.completions.create({
      ...chat, messages: asked, tools, tool_choice: "required", parallel_tool_calls: false,
    });
    const message = called.choices[0].message;
    const [call] = message.tool_calls;
    isWeather(JSON.parse(call.function.arguments));
    const result = { role: "tool", tool_call_id: call.id, content: "21 degrees" };
    const answer = await client.chat.completions.create({
      ...chat, messages: [...asked, message, result], tools, tool_choice: "none", max_tokens: 8,
    });
    assert(answer.choices[0].message.content);
  },
  async "tools stream"() {
    const tool_choice = { type: "function", function: { name: "get_weather" } };
    const made = [zodFunction({ name: "get_weather", parameters: Weather })];
    const runner = client.chat.completions.stream({ ...chat, messages: asked, tools: made, tool_choice });
    const [call] = (await runner.finalChatCompletion()).choices[0].message.tool_calls;
    isWeather(call.function.parsed_arguments);
  },
  async "run tools"() {
    let asks = 0;
    const tool = {
      type: "function",
      function: {
        name: "get_weather", description: "The weather of a city.", parameters: WEATHER, parse: JSON.parse,
        function: () => { asks += 1; return "21 degrees"; },
      },
    };
    const runner = client.chat.completions.runTools(
      { ...chat, messages: asked, tools: [tool], tool_choice: { type: "function", function: { name: "get_weather" } } },
      { maxChatCompletions: 2 },
    );
    await runner.done();
    assert(asks > 0, "the function was not called");
  },
  async logprobs() {
    const answer = await client.chat.completions.create({ ...chat, messages, max_tokens: 3, logprobs: true });
    assert(answer.choices[0].logprobs.content.length > 0);
  },
  async completions() {
    const options = { model: INSTRUCT, prompt: "The sky is", max_tokens: 6, temperature: 0 };
    const whole = (await client.completions.create(options)).choices[0].text;
    let text = "";
    for await (const chunk of await client.completions.create({ ...options, stream: true })) {
      text += chunk.choices[0]?.text ?? "";
    }
    assert(whole && text === whole, { whole, text });
  },
  async embeddings() {
    const made = await client.embeddings.create({ model: EMBEDDING, input: ["a sky", "a sea"] });
    assert(made.data.length === 2 && typeof made.data[0].embedding[0] === "number");
  },
  async responses() {
    const made = await client.responses.create({ ...chat, input: "Say this is a test.", max_output_tokens: 16 });
    assert(made.output_text);
    const next = { ...chat, input: "Again.", previous_response_id: made.id, max_output_tokens: 16 };
    assert((await client.responses.create(next)).output_text);
    await client.responses.delete(made.id);
  },
  async "responses stream"() {
    const options = { ...chat, input: "Say this is a test.", max_output_tokens: 16 };
    const stream = client.responses.stream(options);
    let text = "";
    for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
    assert(text && text === (await stream.finalResponse()).output_text);
  },
  async "responses structured output"() {
    const answer = await client.responses.parse({
      ...chat, input: QUESTION, text: { format: zodTextFormat(Weather, "weather") },
    });
    isWeather(answer.output_parsed);
  },
  async files() {
    const file = await upload(conversations(), "fine-tune");
    assert((await client.files.retrieve(file.id)).filename === "stories.jsonl");
    assert((await (await client.files.content(file.id)).text()).startsWith('{"messages"'));
    assert((await client.files.delete(file.id)).deleted);
  },
  async "fine-tuning"() {
    const file = await upload(conversations(), "fine-tune");
    const method = { type: "supervised", supervised: { hyperparameters: { n_epochs: 1, batch_size: 5 } } };
    const made = await client.fineTuning.jobs.create({ model: TRAINED, training_file: file.id, method });
    const over = (job) => ["succeeded", "failed", "cancelled"].includes(job.status);
    const job = await waitFor(() => client.fineTuning.jobs.retrieve(made.id), over);
    assert(job.status === "succeeded", job);
    const events = [];
    for await (const event of client.fineTuning.jobs.listEvents(made.id, { limit: 2 })) events.push(event);
    assert(events.length > 3, events);
    for await (const checkpoint of client.fineTuning.jobs.checkpoints.list(made.id)) assert(checkpoint.step_number);
    const answer = await client.chat.completions.create({ model: job.fine_tuned_model, messages, max_tokens: 4 });
    assert(answer.model === job.fine_tuned_model);
    const waiting = await client.fineTuning.jobs.create({ model: TRAINED, training_file: file.id });
    assert((await client.fineTuning.jobs.cancel(waiting.id)).status === "cancelled");
  },
  async batches() {
    const body = { model: CHAT, messages, max_tokens: 4 };
    const row = { custom_id: "one", method: "POST", url: "/v1/chat/completions", body };
    const file = await upload([row], "batch");
    const made = await client.batches.create({
      input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h",
    });
    const over = (batch) => ["completed", "failed", "expired", "cancelled"].includes(batch.status);
    const done = await waitFor(() => client.batches.retrieve(made.id), over);
    assert(done.status === "completed", done);
    const answer = JSON.parse(await (await client.files.content(done.output_file_id)).text());
    assert(answer.custom_id === "one" && answer.response.status_code === 200, answer);
  },
  async uploads() {
    const bytes = Buffer.from(conversations().map((row) => JSON.stringify(row) + "\n").join(""));
    const made = await client.uploads.create({
      purpose: "fine-tune", filename: "a.jsonl", bytes: bytes.length, mime_type: "text/jsonl",
    });
    const part = await client.uploads.parts.create(made.id, { data: await toFile(bytes, "part") });
    const done = await client.uploads.complete(made.id, { part_ids: [part.id] });
    assert(done.status === "completed" && done.file.bytes === bytes.length, done);
  },
  async errors() {
    const wrong = new OpenAI({ apiKey: "wrong", maxRetries: 0 });
    const failed = async (call) => call().then(() => null, (exc) => exc);
    assert((await failed(() => wrong.models.list())) instanceof OpenAI.AuthenticationError);
    const unknown = await failed(() => client.chat.completions.create({ model: "gpt-none", messages }));
    assert(unknown instanceof OpenAI.NotFoundError && unknown.code === "model_not_found");
  },
});
