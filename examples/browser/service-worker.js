// Keeps what the page loaded, so that it opens without a network, and lets the page use several threads.

const KEPT = "musiq-page";
const PAGE = ["./", "page.css", "page.js", "worker.js", "decode.js", "model-facts.js", "pixels.js"];
// Browsers give threads to pages alone that say they share nothing with other sites. Few static hosts can be told to.
const ISOLATED = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Content-Security-Policy": "default-src 'self'; img-src blob: data:; script-src 'self' 'wasm-unsafe-eval'",
};

addEventListener("install", (event) => {
  skipWaiting();
  event.waitUntil(caches.open(KEPT).then((kept) => kept.addAll(PAGE)));
});
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && new URL(request.url).origin === location.origin) event.respondWith(answer(event));
});

// From the network where there is one, so that a newer page or model is never hidden by an old one.
async function answer(event) {
  const { request } = event, kept = await caches.open(KEPT);
  // Without a word on it from their server, browsers would take an old file for a while; navigations allow no options.
  const fresh = request.mode === "navigate" ? request : new Request(request, { cache: "no-cache" });
  let response = await fetch(fresh).catch(() => null);
  if (response?.status === 200) event.waitUntil(kept.put(request, response.clone()).catch(() => {})); // a full disk
  else response ??= await kept.match(request, { ignoreSearch: true, ignoreVary: true }) ?? Response.error();
  if (response.type === "error" || response.redirected || !response.body) return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
