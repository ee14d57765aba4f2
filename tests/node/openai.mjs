// Drives a gateway with OpenAI's own SDK for Node, and prints what the SDK made of it as one line of JSON.
// OPENAI_BASE_URL and OPENAI_API_KEY come from the environment, as they do for any user of the SDK.

import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const messages = [{ role: "user", content: "hello" }];

const whole = await client.chat.completions.create({ model: "any", messages });

const pieces = [];
for await (const chunk of await client.chat.completions.create({ model: "any", messages, stream: true })) {
  pieces.push(chunk.choices[0]?.delta?.content ?? "");
}

async function failure(attempt) {
  try {
    await attempt();
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code, requestId: error.requestID };
  }
  return null;
}

const refused = await failure(() => client.chat.completions.create({ model: "fails-429", messages }));
const stranger = new OpenAI({ maxRetries: 0, apiKey: "gw_00000000000000000000000000000000" });
const unauthorised = await failure(() => stranger.models.list());

console.log(JSON.stringify({ whole: whole.choices[0].message.content, pieces, refused, unauthorised }));
