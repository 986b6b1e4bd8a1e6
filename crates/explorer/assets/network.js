// The networks of Lockstep's VAE in plain JavaScript: encoder, decoder and loss.
// `Network` chooses the dense or the convolutional network; both have the methods `encoder` and `decoder`.
"use strict";

/** One linear layer: `weight` is [outputs, inputs] row by row, as in PyTorch. */
function linear({ weight, bias }, input, activation) {
  const inputs = input.length;
  const output = new Float32Array(bias.length);
  for (let row = 0; row < output.length; row++) {
    let sum = bias[row];
    const start = row * inputs;
    for (let at = 0; at < inputs; at++) sum += weight[start + at] * input[at];
    output[row] = activation ? activation(sum) : sum;
  }
  return output;
}

const relu = (value) => (value < 0 ? 0 : value);
const silu = (value) => value / (1 + Math.exp(-value));

/** Channels that one group normalises together. */
const GROUP = 8;
const NORM_EPSILON = 1e-5;

/** A picture inside the network: one channel after the other, each row by row. */
const grid = (channels, height, width, data) => ({
  channels, height, width, data: data ?? new Float32Array(channels * height * width),
});

/** conv2d: `weight` is [outputs, inputs, side, side]. */
function convolve({ weight, bias }, input, stride, padding) {
  const outputs = bias.length;
  const side = Math.round(Math.sqrt(weight.length / outputs / input.channels));
  const sizeOf = (length) => Math.floor((length + 2 * padding - side) / stride) + 1;
  const output = grid(outputs, sizeOf(input.height), sizeOf(input.width));
  const plane = output.height * output.width;
  for (let to = 0; to < outputs; to++) {
    output.data.fill(bias[to], to * plane, (to + 1) * plane);
    for (let from = 0; from < input.channels; from++) {
      for (let tap = 0; tap < side * side; tap++) {
        const factor = weight[(to * input.channels + from) * side * side + tap];
        const [down, across] = [Math.floor(tap / side) - padding, (tap % side) - padding];
        for (let y = 0; y < output.height; y++) {
          const row = y * stride + down;
          if (row < 0 || row >= input.height) continue;
          const source = (from * input.height + row) * input.width + across;
          const target = to * plane + y * output.width;
          for (let x = 0; x < output.width; x++) {
            const column = x * stride + across;
            if (column >= 0 && column < input.width) {
              output.data[target + x] += factor * input.data[source + x * stride];
            }
          }
        }
      }
    }
  }
  return output;
}

/** conv_transpose2d: `weight` is [inputs, outputs, side, side]. */
function convolveTransposed({ weight, bias }, input, stride, padding) {
  const outputs = bias.length;
  const side = Math.round(Math.sqrt(weight.length / outputs / input.channels));
  const sizeOf = (length) => (length - 1) * stride - 2 * padding + side;
  const output = grid(outputs, sizeOf(input.height), sizeOf(input.width));
  const plane = output.height * output.width;
  for (let to = 0; to < outputs; to++) {
    output.data.fill(bias[to], to * plane, (to + 1) * plane);
    for (let from = 0; from < input.channels; from++) {
      for (let tap = 0; tap < side * side; tap++) {
        const factor = weight[(from * outputs + to) * side * side + tap];
        const [down, across] = [Math.floor(tap / side) - padding, (tap % side) - padding];
        for (let y = 0; y < input.height; y++) {
          const row = y * stride + down;
          if (row < 0 || row >= output.height) continue;
          const source = (from * input.height + y) * input.width;
          const target = to * plane + row * output.width + across;
          for (let x = 0; x < input.width; x++) {
            const column = x * stride + across;
            if (column >= 0 && column < output.width) {
              output.data[target + x * stride] += factor * input.data[source + x];
            }
          }
        }
      }
    }
  }
  return output;
}

/** Group norm, then SiLU, in place. */
function normalise({ weight, bias }, picture) {
  const plane = picture.height * picture.width;
  for (let group = 0; group < picture.channels; group += GROUP) {
    const values = picture.data.subarray(group * plane, (group + GROUP) * plane);
    let [sum, squares] = [0, 0];
    for (const value of values) sum += value;
    const mean = sum / values.length;
    for (const value of values) squares += (value - mean) ** 2;
    const scale = 1 / Math.sqrt(squares / values.length + NORM_EPSILON);
    for (let at = 0; at < values.length; at++) {
      const channel = group + Math.floor(at / plane);
      values[at] = silu((values[at] - mean) * scale * weight[channel] + bias[channel]);
    }
  }
  return picture;
}

/** Repeats the last row and column until the picture has this size. */
function extend(picture, height, width) {
  if (picture.height === height && picture.width === width) return picture;
  const output = grid(picture.channels, height, width);
  for (let channel = 0, at = 0; channel < picture.channels; channel++) {
    for (let y = 0; y < height; y++) {
      const row = channel * picture.height + Math.min(y, picture.height - 1);
      for (let x = 0; x < width; x++) {
        output.data[at++] = picture.data[row * picture.width + Math.min(x, picture.width - 1)];
      }
    }
  }
  return output;
}

class DenseCoder {
  constructor(layer) {
    this.layers = (half) => [0, 2, 4].map((number) => layer(`${half}.${number}`));
  }

  encoder(pixels) {
    const [first, second, last] = this.layers("encoder");
    return linear(last, linear(second, linear(first, pixels, relu), relu));
  }

  decoder(z) {
    const [first, second, last] = this.layers("decoder");
    return linear(last, linear(second, linear(first, z, relu), relu));
  }
}

class ConvCoder {
  /** `levels` are the pictures between the convolutions: [channels, height, width], the largest first. */
  constructor(layer, { height, width, channels, levels }) {
    Object.assign(this, { layer, height, width, channels, levels });
  }

  encoder(pixels) {
    // The image has the channels of a pixel side by side; the layers take one channel after the other.
    let picture = grid(this.channels, this.height, this.width);
    const plane = this.height * this.width;
    for (let at = 0; at < pixels.length; at++) {
      picture.data[(at % this.channels) * plane + Math.floor(at / this.channels)] = pixels[at];
    }
    for (const number of this.levels.keys()) {
      picture = convolve(this.layer(`encoder.${number}.conv`), picture, 2, 1);
      picture = normalise(this.layer(`encoder.${number}.norm`), picture);
    }
    const features = linear(this.layer("encoder.dense"), picture.data, silu);
    return linear(this.layer("encoder.latent"), features);
  }

  decoder(z) {
    const dense = linear(this.layer("decoder.latent"), z, silu);
    const features = linear(this.layer("decoder.dense"), dense, silu);
    let picture = grid(...this.levels.at(-1), features);
    for (let number = this.levels.length - 1; number >= 0; number--) {
      const above = number ? this.levels[number - 1] : [0, this.height, this.width];
      picture = convolveTransposed(this.layer(`decoder.${number}.conv`), picture, 2, 1);
      picture = extend(picture, above[1], above[2]);
      picture = normalise(this.layer(`decoder.${number}.norm`), picture);
    }
    picture = convolve(this.layer("decoder.output"), picture, 1, 1);
    const plane = this.height * this.width;
    return picture.data.map((_, at) => picture.data[(at % this.channels) * plane + Math.floor(at / this.channels)]);
  }
}

class Network {
  /** `tensors` has names and lengths, in the order of `parameters`. */
  constructor(meta, parameters) {
    const found = new Map();
    let at = 0;
    for (const [name, length] of meta.tensors) found.set(name, parameters.subarray(at, (at += length)));
    const layer = (name) => ({ weight: found.get(`${name}.weight`), bias: found.get(`${name}.bias`) });
    this.coder = meta.levels ? new ConvCoder(layer, meta) : new DenseCoder(layer);
    this.latent = meta.latent;
    this.gaussian = found.has("log_variance");
    this.logVariance = this.gaussian ? found.get("log_variance")[0] : 0;
  }

  /** Mean and log-variance of q(z|x) for pixels from 0 to 1. */
  encode(pixels) {
    const moments = this.coder.encoder(pixels);
    return { mean: moments.slice(0, this.latent), logVariance: moments.slice(this.latent) };
  }

  /** The expected pixels, from 0 to 1. */
  decode(z) {
    const output = this.coder.decoder(z);
    return this.gaussian
      ? output.map((value) => Math.min(Math.max(value, 0), 1))
      : output.map((value) => 1 / (1 + Math.exp(-value)));
  }

  /** -log p(x|z) in nats. */
  reconstruction(pixels, z) {
    const output = this.coder.decoder(z);
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

/** A point between two latents, along a line or along a sphere (Shoemake's slerp). */
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
