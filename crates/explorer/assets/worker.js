// The engine in a worker: the first message creates it, each later message is a request.
"use strict";

let engine;
onmessage = ({ data: { id, meta, arrays, request } }) => {
  if (meta) {
    engine = new Engine(meta, arrays);
    return;
  }
  try {
    postMessage({ id, reply: engine.answer(request) });
  } catch (error) {
    postMessage({ id, error: String(error) });
  }
};
