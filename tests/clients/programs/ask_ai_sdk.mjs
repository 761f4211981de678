// Vercel's AI SDK with its provider for servers that speak OpenAI's protocol.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const [baseURL, apiKey, name] = process.argv.slice(2);
const model = createOpenAICompatible({ name: "phi3kit", baseURL, apiKey, includeUsage: true })(name);
const messages = [{ role: "user", content: "What is the capital of Spain?" }];
const answer = await generateText({ model, messages, maxRetries: 0 });
let streamed = "";
for await (const piece of streamText({ model, messages, maxRetries: 0 }).textStream) streamed += piece;
const kept = [...messages, ...answer.response.messages, { role: "user", content: "And of France?" }];
const second = await generateText({ model, messages: kept, maxRetries: 0 });
console.log(JSON.stringify({ whole: answer.text, streamed, second: second.text }));
