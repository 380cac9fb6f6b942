// Greets whoever asks: `/NAME`, with the word of the variable GREETING.

import { getEnvironment } from "wasi:cli/environment@0.2.10";

addEventListener("fetch", (event) => event.respondWith(greet(event.request)));

function greet(request) {
  const name = decodeURIComponent(new URL(request.url).pathname.slice(1)) || "world";
  const { GREETING: greeting = "Hello" } = Object.fromEntries(getEnvironment());
  console.log(`greeting ${name}`);
  return new Response(`${greeting}, ${name}!\n`, { headers: { "content-type": "text/plain; charset=utf-8" } });
}
