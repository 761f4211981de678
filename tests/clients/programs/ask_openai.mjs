// The openai client of npm.
import OpenAI from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of Spain?" }];
const answer = (await client.chat.completions.create({ model, messages })).choices[0].message;
let streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
const kept = [...messages, answer, { role: "user", content: "And of France?" }];
const second = (await client.chat.completions.create({ model, messages: kept })).choices[0].message.content;
console.log(JSON.stringify({ whole: answer.content, streamed, second }));
