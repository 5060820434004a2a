// tus's own reference server behind the addresses of the wire contract: nothing of the protocol is done here.
//
// usage: node server.mjs FOLDER PORT [DEPENDENCIES]   (0 takes a free port; the address is printed once it listens)
//
// DEPENDENCIES is the folder in which `npm ci` was run; without it, this one.

import http from "node:http";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [folder, port, dependencies = import.meta.dirname] = process.argv.slice(2);
const resolve = createRequire(path.join(dependencies, "package.json")).resolve;
const { Server } = await import(pathToFileURL(resolve("@tus/server")));
const { FileStore } = await import(pathToFileURL(resolve("@tus/file-store")));

const UPLOADS = "/uploads";
const CREATION = /^\/scenarios\/[^/]+\/(videos|annotations)$/;

const tus = new Server({
  path: UPLOADS,
  datastore: new FileStore({ directory: folder }),
  relativeLocation: true,
});

function answer(response, status, body) {
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(JSON.stringify(body));
}

const server = http.createServer((request, response) => {
  if (CREATION.test(request.url)) {
    request.url = UPLOADS;
    tus.handle(request, response);
  } else if (request.url.startsWith(`${UPLOADS}/`)) {
    tus.handle(request, response);
  } else if (request.method === "GET" && request.url === "/health") {
    answer(response, 200, { status: "ok" });
  } else if (request.method === "POST" && request.url === "/scenarios") {
    request.resume().on("end", () => answer(response, 201, { status: "registered" }));
  } else {
    answer(response, 404, { title: "Not Found", status: 404 });
  }
});

server.listen({ host: "127.0.0.1", port: Number(port) }, () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});
