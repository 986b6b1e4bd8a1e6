// The data source of the page in a single file: elements of the page itself.
"use strict";

/** An array from an element of the page: gzip in base64. */
async function unpack(name, Type) {
  const element = document.getElementById(name);
  const packed = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
  element.remove();
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Type(await new Response(stream).arrayBuffer());
}

const source = {
  /** The facts about the model that the page needs, and its arrays. */
  async load(say) {
    const meta = JSON.parse(document.getElementById("meta").textContent);
    say(`${meta.model}: loading`);
    const arrays = {};
    for (const name of ["parameters", "places", "means", "losses", "divergences"]) {
      arrays[name] = await unpack(name, Float32Array);
    }
    for (const name of ["labels", "levels"]) arrays[name] = await unpack(name, Uint8Array);
    return { meta, arrays };
  },

  /** A worker made from scripts that the page contains. */
  worker() {
    const text = ["network", "engine", "worker"].map((name) => document.getElementById(`${name}-js`).textContent);
    return new Worker(URL.createObjectURL(new Blob(text, { type: "text/javascript" })));
  },
};
