// The dense network of Lockstep's VAE: pixels to latents and back, and what an image costs.
"use strict";

/** Base64 to an array of the given type. */
function unpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Type(bytes.buffer);
}

/** One linear layer: `weight` is [outputs, inputs] row by row, as in PyTorch. */
function linear(weight, bias, input, relu) {
  const inputs = input.length;
  const output = new Float32Array(bias.length);
  for (let row = 0; row < output.length; row++) {
    let sum = bias[row];
    const start = row * inputs;
    for (let at = 0; at < inputs; at++) sum += weight[start + at] * input[at];
    output[row] = relu && sum < 0 ? 0 : sum;
  }
  return output;
}

class Network {
  /** `layers` are the sizes [inputs, outputs] in the order of `parameters`: weight, bias, weight ... */
  constructor({ layers, gaussian, latent }, parameters) {
    this.gaussian = gaussian;
    this.latent = latent;
    let at = 0;
    const take = (count) => parameters.subarray(at, (at += count));
    this.layers = layers.map(([inputs, outputs]) => ({
      weight: take(inputs * outputs),
      bias: take(outputs),
    }));
    this.logVariance = gaussian ? take(1)[0] : 0;
  }

  through(first, input) {
    let values = input;
    for (let layer = first; layer < first + 3; layer++) {
      const { weight, bias } = this.layers[layer];
      values = linear(weight, bias, values, layer < first + 2);
    }
    return values;
  }

  /** Mean and log-variance of q(z|x) for pixels from 0 to 1. */
  encode(pixels) {
    const moments = this.through(0, pixels);
    return { mean: moments.slice(0, this.latent), logVariance: moments.slice(this.latent) };
  }

  /** The expected pixels, 0 to 1. */
  decode(z) {
    const output = this.through(3, z);
    return this.gaussian
      ? output.map((value) => Math.min(Math.max(value, 0), 1))
      : output.map((value) => 1 / (1 + Math.exp(-value)));
  }

  /** -log p(x|z) in nats. */
  reconstruction(pixels, z) {
    const output = this.through(3, z);
    let sum = 0;
    for (let at = 0; at < output.length; at++) {
      const [x, y] = [pixels[at], output[at]];
      sum += this.gaussian
        ? 0.5 * ((x - y) ** 2 / Math.exp(this.logVariance) + this.logVariance + Math.log(2 * Math.PI))
        : Math.max(y, 0) - x * y + Math.log1p(Math.exp(-Math.abs(y)));
    }
    return sum;
  }

  /** KL(q(z|x) || N(0, 1)) in nats. */
  divergence({ mean, logVariance }) {
    let sum = 0;
    for (let at = 0; at < mean.length; at++) {
      sum += 0.5 * (mean[at] ** 2 + Math.exp(logVariance[at]) - 1 - logVariance[at]);
    }
    return sum;
  }
}

/** A place between two latents, along a line or along a sphere. */
function between(from, to, share, spherical) {
  let [a, b] = [1 - share, share];
  if (spherical) {
    const dot = (x, y) => x.reduce((sum, value, at) => sum + value * y[at], 0);
    const cosine = dot(from, to) / Math.sqrt(dot(from, from) * dot(to, to));
    const angle = Math.acos(Math.min(Math.max(cosine, -1), 1));
    const sine = Math.sin(angle);
    if (sine > 1e-4) [a, b] = [Math.sin(a * angle) / sine, Math.sin(b * angle) / sine];
  }
  return from.map((value, at) => a * value + b * to[at]);
}

if (typeof module !== "undefined") module.exports = { Network, between, unpack };
