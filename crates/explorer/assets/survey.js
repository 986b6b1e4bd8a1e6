// Computes the data of the map: the latents and the loss of each image. It runs in a worker of the page on a
// board; `vae explore` computes the same data before it writes its page.
"use strict";

/** Iterations of the search for a principal component. */
const TURNS = 200;

/** Images between two progress messages. */
const TELL_EVERY = 100;

/** The mean, the first principal components and their shares of the variance, for rows of `dim` values. */
function principal(rows, dim, howMany) {
  const count = rows.length / dim;
  const mean = new Float64Array(dim);
  for (let at = 0; at < rows.length; at++) mean[at % dim] += rows[at] / count;
  const covariance = Array.from({ length: dim }, () => new Float64Array(dim));
  for (let row = 0; row < count; row++) {
    for (let one = 0; one < dim; one++) {
      const part = (rows[row * dim + one] - mean[one]) / count;
      for (let other = 0; other < dim; other++) covariance[one][other] += part * (rows[row * dim + other] - mean[other]);
    }
  }
  const whole = covariance.reduce((sum, row, at) => sum + row[at], 0) || 1;
  const components = [];
  const explained = [];
  for (let which = 0; which < howMany; which++) {
    // All parts differ, so that the vector is unlikely to be orthogonal to the component.
    let vector = Float64Array.from({ length: dim }, (_, at) => 1 + 0.1 * at);
    let variance = 0;
    for (let turn = 0; turn < TURNS; turn++) {
      const next = covariance.map((row) => row.reduce((sum, value, at) => sum + value * vector[at], 0));
      variance = Math.hypot(...next);
      if (variance === 0) break;
      vector = Float64Array.from(next, (value) => value / variance);
    }
    const length = Math.hypot(...vector);
    const largest = vector.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
    const component = Array.from(vector, (value) => (value / length) * Math.sign(largest));
    for (let one = 0; one < dim; one++) {
      for (let other = 0; other < dim; other++) covariance[one][other] -= variance * component[one] * component[other];
    }
    components.push(component);
    explained.push(variance / whole);
  }
  return { mean: Array.from(mean), components, explained };
}

/** The places of latent means on the plane, the plane itself, and a caption for its axes. */
function planeOf(means, dim) {
  const count = means.length / dim;
  if (dim < 3) {
    // The images of a model with one latent are spread across their line.
    const golden = 0.618034;
    const up = (index) => (dim === 2 ? means[2 * index + 1] : 0.35 * (((index * golden) % 1) - 0.5));
    const places = Float32Array.from({ length: 2 * count }, (_, at) =>
      at % 2 ? up((at - 1) / 2) : means[(at / 2) * dim]);
    const axes = dim === 2 ? [[1, 0], [0, 1]] : [[1], [0]];
    const caption = `Across: latent 0. Up: ${dim === 2 ? "latent 1" : "no meaning"}.`;
    return { places, origin: new Array(dim).fill(0), axes, caption };
  }
  const { mean, components, explained } = principal(means, dim, 2);
  const along = (row, axis) =>
    components[axis].reduce((sum, part, at) => sum + part * (means[row * dim + at] - mean[at]), 0);
  const places = Float32Array.from({ length: 2 * count }, (_, at) => along(Math.floor(at / 2), at % 2));
  const [across, up] = explained.map((share) => (100 * share).toFixed(0));
  const caption = `Across: 1st principal component, ${across} % of the variance. Up: 2nd, ${up} %.`;
  return { places, origin: mean, axes: components, caption };
}

/** The centre of the places, and half of the side of a square around them. */
function frameOf(places) {
  const ends = [0, 1].map((axis) => {
    let [low, high] = [Infinity, -Infinity];
    for (let at = axis; at < places.length; at += 2) [low, high] = [Math.min(low, places[at]), Math.max(high, places[at])];
    return [low, high];
  });
  const reach = Math.max(...ends.map(([low, high]) => 0.525 * (high - low))) || 1;
  return { middle: ends.map(([low, high]) => 0.5 * (low + high)), reach: [reach, reach] };
}

/** Encodes all images. `tell` receives the number of images that are done. */
function survey(model, parameters, levels, tell) {
  const { latent, count, height, width, channels } = model;
  const network = new Network(model, parameters);
  const numbers = height * width * channels;
  const [means, losses, divergences] = [latent * count, count, count].map((length) => new Float32Array(length));
  const use = new Array(latent).fill(0);
  for (let index = 0; index < count; index++) {
    const pixels = Float32Array.from(levels.subarray(index * numbers, (index + 1) * numbers), (level) => level / 255);
    const moments = network.encode(pixels);
    means.set(moments.mean, index * latent);
    for (let at = 0; at < latent; at++) {
      const one = { mean: [moments.mean[at]], logVariance: [moments.logVariance[at]] };
      use[at] += network.divergence(one) / count;
    }
    divergences[index] = network.divergence(moments);
    losses[index] = network.reconstruction(pixels, moments.mean) + divergences[index];
    if (index % TELL_EVERY === 0) tell(index);
  }
  const { places, ...plane } = planeOf(means, latent);
  const order = use.map((_, at) => at).sort((one, other) => use[other] - use[one]);
  return { meta: { ...plane, ...frameOf(places), order, use }, arrays: { places, means, losses, divergences } };
}

onmessage = ({ data: { model, parameters, levels } }) => {
  postMessage({ found: survey(model, parameters, levels, (done) => postMessage({ done })) });
};
