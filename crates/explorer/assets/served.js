// The data source of the page on a board: the newest checkpoint and some images, which the board sends, and the
// latents that a worker computes from the images.
"use strict";

const source = {
  /** The facts about the model that the page needs, and its arrays. */
  async load(say) {
    const run = new URLSearchParams(location.search).get("run");
    const of = run === null ? "" : `run=${encodeURIComponent(run)}`;
    document.getElementById("back").href = of ? `./?${of}` : "./";
    const ask = async (path) => {
      const answer = await fetch(path);
      if (!answer.ok) throw new Error((await answer.text()).trim() || `the board answers ${answer.status}`);
      return answer;
    };
    const model = await (await ask(`api/latent?${of}`)).json();
    say(`${model.model}: loading`);
    const array = async (name, Type) =>
      new Type(await (await ask(`api/latent/${name}?step=${model.step}&${of}`)).arrayBuffer());
    const [parameters, levels, labels] = await Promise.all([
      array("parameters", Float32Array), array("levels", Uint8Array), array("labels", Uint8Array),
    ]);
    const found = await this.survey(model, parameters, levels, say);
    return { meta: { ...model, ...found.meta }, arrays: { parameters, levels, labels, ...found.arrays } };
  },

  /** Encodes the images in a worker. */
  survey(model, parameters, levels, say) {
    return new Promise((resolve, reject) => {
      const worker = new Worker("latent-survey.js");
      worker.onmessage = ({ data: { done, found } }) => {
        if (!found) return say(`${model.model}: encoding, ${done} of ${model.count}`);
        worker.terminate();
        resolve(found);
      };
      worker.onerror = (event) => reject(new Error(event.message || "the images cannot be encoded"));
      worker.postMessage({ model, parameters, levels });
    });
  },

  worker: () => new Worker("latent-worker.js"),
};
