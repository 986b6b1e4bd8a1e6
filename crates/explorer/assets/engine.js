// The slow computations of the page. They run in a worker or, if the browser allows no worker, on the page itself.
// Each function of `Engine` answers one kind of request.
"use strict";

/** The number of nearest images from which a place of a t-SNE map gets its latents. */
const NEIGHBOURS = 6;

class Engine {
  constructor(meta, { parameters, places, means, losses }) {
    this.meta = meta;
    this.network = new Network(meta, parameters);
    Object.assign(this, { places, means, sorted: losses.slice().sort() });
  }

  /** The indices and squared distances of the images with the nearest values, the nearest first. */
  nearest(values, all, howMany) {
    const dim = values.length;
    const found = [];
    let limit = Infinity;
    for (let index = 0; index < this.meta.count; index++) {
      let sum = 0;
      for (let at = 0; at < dim && sum < limit; at++) sum += (all[index * dim + at] - values[at]) ** 2;
      if (sum >= limit) continue;
      found.push([sum, index]);
      found.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
      if (found.length > howMany) found.pop();
      if (found.length === howMany) limit = found.at(-1)[0];
    }
    return found;
  }

  mean(index) {
    const { latent } = this.meta;
    return this.means.slice(index * latent, (index + 1) * latent);
  }

  /** The latents of a place: a point on the plane of the map, or a mean of the nearest images on a t-SNE map. */
  latentsAt(place) {
    const { origin, axes, latent } = this.meta;
    if (axes) {
      return Float32Array.from(origin, (value, at) => value + axes[0][at] * place[0] + axes[1][at] * place[1]);
    }
    const near = this.nearest(place, this.places, NEIGHBOURS);
    if (near[0][0] === 0) return this.mean(near[0][1]);
    const z = new Float32Array(latent);
    const whole = near.reduce((sum, [square]) => sum + 1 / square, 0);
    for (const [square, index] of near) {
      for (let at = 0; at < latent; at++) z[at] += this.means[index * latent + at] / square / whole;
    }
    return z;
  }

  /** For a place on the map: the decoded image and the nearest image. */
  at({ place }) {
    const z = this.latentsAt(place);
    const [[, nearest]] = this.nearest(place, this.places, 1);
    return { z, place, nearest, pixels: this.network.decode(z) };
  }

  /** For latents: the same. Their place is their projection, or on a t-SNE map that of the nearest image. */
  latents({ z }) {
    const { origin, axes } = this.meta;
    const [[, nearest]] = this.nearest(z, this.means, 1);
    const along = (axis) => axis.reduce((sum, part, at) => sum + part * (z[at] - origin[at]), 0);
    const place = axes ? axes.map(along) : Array.from(this.places.subarray(2 * nearest, 2 * nearest + 2));
    return { z, place, nearest, pixels: this.network.decode(z) };
  }

  /** The model's results for an image. The loss is taken at the latent mean, as for the images of the map. */
  measure({ pixels }) {
    const moments = this.network.encode(pixels);
    const kl = this.network.divergence(moments);
    const loss = this.network.reconstruction(pixels, moments.mean) + kl;
    let below = 0;
    while (below < this.sorted.length && this.sorted[below] < loss) below++;
    const decoded = this.network.decode(moments.mean);
    return { z: moments.mean, kl, loss, share: (100 * below) / this.sorted.length, decoded };
  }

  /** Decoded images on the way from one image to another, along a line and along a sphere. */
  path({ from, to, steps }) {
    const ends = [this.mean(from), this.mean(to)];
    const walk = (spherical) =>
      Array.from({ length: steps }, (_, step) =>
        this.network.decode(between(...ends, step / (steps - 1), spherical)),
      );
    return { line: walk(false), sphere: walk(true) };
  }

  answer({ kind, ...request }) {
    return this[kind](request);
  }
}
