// float32 arithmetic with the library's bits. A frame describes the convolution, large side -> small side, over two axes;
// a transposed convolution reads it backwards. A term is three flat indices: [large, weight, small]; -1 is a padded zero.

const double = new Float64Array(1), halves = new Uint32Array(double.buffer);

/** fround(a * b + c) rounded once, for float32 a, b, c: the product is exact in a double; the sum is rounded to odd first. */
function fma32(a, b, c) {
  const product = a * b, sum = product + c;
  const back = sum - product, lost = (product - (sum - back)) + (c - back);
  if (lost !== 0 && lost === lost) {
    double[0] = sum;
    if ((halves[0] & 1) === 0) {  // an even last bit: the neighbour towards the exact sum is odd
      if ((lost > 0) === (sum > 0)) halves[0] += 1;
      else { if (halves[0] === 0) halves[1] -= 1; halves[0] -= 1; }
      return Math.fround(double[0]);
    }
  }
  return Math.fround(sum);
}

const product = sizes => sizes.reduce((a, b) => a * b, 1);

/** How the sum over an index space is cut (docs/contract.md), sizes innermost first: `levels` of [axis, step], and the sizes that each sees. */
function orderOf(axes) {
  const terms = product(axes), levels = [], seen = [axes];
  let limit = 32;
  while (limit < 128 && limit * limit <= terms) limit *= 2;
  for (let sizes = axes; product(sizes) > limit; limit = 9) {
    let whole = 1, axis = 0;
    while (whole * sizes[axis] <= limit) whole *= sizes[axis++];
    const step = Math.ceil(sizes[axis] / Math.ceil(sizes[axis] / Math.max(1, Math.floor(limit / whole))));
    levels.push([axis, step]);
    sizes = [Math.ceil(sizes[axis] / step), ...sizes.slice(axis + 1)];
    seen.push(sizes);
  }
  return { levels, seen };
}

/** The numbers of the block, the group of blocks, ... in which the term at an index lies. */
function membersOf(order, index) {
  return order.levels.map(([axis, step], level) => {
    index = [Math.floor(index[axis] / step), ...index.slice(axis + 1)];
    return index.reduceRight((number, at, k) => number * order.seen[level + 1][k] + at, 0);
  });
}

const known = new Map();
/** The members of every term of a sum over `axes`, by its place in the index space (innermost axis first); made once for each. */
function membersOver(axes) {
  const key = axes.join();
  if (!known.has(key)) {
    const order = orderOf(axes);
    known.set(key, Array.from({length: product(axes)}, (_, place) => {
      const index = axes.map(size => { const at = place % size; place = Math.floor(place / size); return at; });
      return membersOf(order, index);
    }));
  }
  return known.get(key);
}

const gcd = (a, b) => b ? gcd(b, a % b) : a;
/** The most taps that reach a position of the large side, and the place of tap k among those of its position. */
const most = (f, axis) => Math.ceil(f.kernel[axis] / (f.stride[axis] / gcd(f.stride[axis], f.dilation[axis])));
const rank = (f, axis, k) => Math.floor(k / (f.stride[axis] / gcd(f.stride[axis], f.dilation[axis])));

/** The terms of one number of the small side: taps in row-major order, then the channels of the group. */
function termsOfSmall(f, small) {
  const members = membersOver([f.largePer, f.kernel[1], f.kernel[0]]), terms = [];
  terms.members = [];
  const [SH, SW] = f.small, [LH, LW] = f.large, [KH, KW] = f.kernel;
  const o = Math.floor(small / (SH * SW)), y = Math.floor(small / SW) % SH, x = small % SW, g = Math.floor(o / f.smallPer);
  for (let a = 0; a < KH; a++) for (let b = 0; b < KW; b++) {
    const r = y * f.stride[0] - f.padding[0][0] + a * f.dilation[0], c = x * f.stride[1] - f.padding[1][0] + b * f.dilation[1];
    const inside = r >= 0 && r < LH && c >= 0 && c < LW;
    for (let i = 0; i < f.largePer; i++) {
      terms.push(inside ? ((g * f.largePer + i) * LH + r) * LW + c : -1, ((o * f.largePer + i) * KH + a) * KW + b, small);
      terms.members.push(members[i + f.largePer * (b + KW * a)]);
    }
  }
  return terms;
}

/** The terms of one number of the large side: the taps that land on it, row-major, then the channels of the group. */
function termsOfLarge(f, large) {
  const wide = most(f, 1), members = membersOver([f.smallPer, wide, most(f, 0)]), terms = [];
  terms.members = [];
  const [SH, SW] = f.small, [LH, LW] = f.large, [KH, KW] = f.kernel;
  const ci = Math.floor(large / (LH * LW)), r = Math.floor(large / LW) % LH, c = large % LW;
  const g = Math.floor(ci / f.largePer), i = ci % f.largePer;
  for (let a = 0; a < KH; a++) {
    const y = (r + f.padding[0][0] - a * f.dilation[0]) / f.stride[0];
    if (y < 0 || y >= SH || !Number.isInteger(y)) continue;
    for (let b = 0; b < KW; b++) {
      const x = (c + f.padding[1][0] - b * f.dilation[1]) / f.stride[1];
      if (x < 0 || x >= SW || !Number.isInteger(x)) continue;
      for (let j = 0; j < f.smallPer; j++) {
        const o = g * f.smallPer + j;
        terms.push(large, ((o * f.largePer + i) * KH + a) * KW + b, (o * SH + y) * SW + x);
        terms.members.push(members[j + f.smallPer * (rank(f, 1, b) + wide * rank(f, 0, a))]);
      }
    }
  }
  return terms;
}

/** The terms of one weight: every position of the small side, row-major. */
function termsOfWeight(f, weight) {
  const members = membersOver([f.small[1], f.small[0]]), terms = [];
  terms.members = [];
  const [SH, SW] = f.small, [LH, LW] = f.large, [KH, KW] = f.kernel;
  const b = weight % KW, a = Math.floor(weight / KW) % KH, i = Math.floor(weight / (KW * KH)) % f.largePer;
  const o = Math.floor(weight / (KW * KH * f.largePer)), ci = Math.floor(o / f.smallPer) * f.largePer + i;
  for (let y = 0; y < SH; y++) for (let x = 0; x < SW; x++) {
    const r = y * f.stride[0] - f.padding[0][0] + a * f.dilation[0], c = x * f.stride[1] - f.padding[1][0] + b * f.dilation[1];
    const inside = r >= 0 && r < LH && c >= 0 && c < LW;
    terms.push(inside ? (ci * LH + r) * LW + c : -1, weight, (o * SH + y) * SW + x);
    terms.members.push(members[x + SW * y]);
  }
  return terms;
}

const LARGE = 0, WEIGHT = 1, SMALL = 2;

/**
 * THE ORDER OF A SUM: the one place that says how the terms of a number are added. A block is a chain of fused multiply-adds from
 * zero, in the order of the terms; block sums are added in groups, groups in groups (docs/contract.md). `first` and `second` are arrays, the two faces say which index of a term reads each; `take`
 * (optional) leaves terms out; `each` (optional) gets every running sum of a block.
 */
function addUp(terms, first, firstFace, second, secondFace, take, each) {
  const levels = terms.members.length ? terms.members[0].length : 0, totals = new Array(levels).fill(0);
  let sum = 0, before = null;
  const close = level => {
    totals[level] = Math.fround(totals[level] + (level ? totals[level - 1] : sum));
    if (level) totals[level - 1] = 0; else sum = 0;
  };
  for (let t = 0; t < terms.length; t += 3) {
    if (take && !take(terms, t)) continue;
    const now = terms.members[t / 3], i = terms[t + firstFace], j = terms[t + secondFace];
    for (let level = 0; before && level < levels; level++) if (before[level] !== now[level]) close(level);
    before = now;
    sum = fma32(i < 0 ? 0 : first[i], j < 0 ? 0 : second[j], sum);
    if (each) each(t / 3, sum);
  }
  for (let level = 0; level < levels; level++) close(level);
  return levels ? totals[levels - 1] : sum;
}

/** The bias comes last. */
const withBias = (sum, bias) => bias === null ? sum : Math.fround(sum + bias);

const perSide = (f, side) => side === SMALL ? product(f.small) : product(f.large);

/** conv: the small side from the large side and the weight. */
function convolve(f, large, weight, bias) {
  const out = new Float32Array(f.smallChannels * product(f.small)), per = perSide(f, SMALL);
  for (let s = 0; s < out.length; s++)
    out[s] = withBias(addUp(termsOfSmall(f, s), large, LARGE, weight, WEIGHT), bias ? bias[Math.floor(s / per)] : null);
  return out;
}

/** conv_transpose: the large side from the small side and the weight. */
function transpose(f, small, weight, bias) {
  const out = new Float32Array(f.largeChannels * product(f.large)), per = perSide(f, LARGE);
  for (let l = 0; l < out.length; l++)
    out[l] = withBias(addUp(termsOfLarge(f, l), small, SMALL, weight, WEIGHT), bias ? bias[Math.floor(l / per)] : null);
  return out;
}

/** conv_weight_grad: the weight's gradient from both sides. */
function weightGradient(f, large, small) {
  const out = new Float32Array(f.smallChannels * f.largePer * product(f.kernel));
  for (let w = 0; w < out.length; w++) out[w] = addUp(termsOfWeight(f, w), large, LARGE, small, SMALL);
  return out;
}

/** A pure sum of the contract: in blocks of 512, term t of a block to partial sum t % 16; these and the blocks by trees. */
function pureSum(a, start, count) {
  const r = Math.fround, blocks = [];
  for (let first = 0; first < count; first += 512) {
    const partial = new Float32Array(16);
    for (let t = first; t < Math.min(count, first + 512); t++) partial[t % 16] = r(partial[t % 16] + a[start + t]);
    for (let half = 8; half; half >>= 1) for (let j = 0; j < half; j++) partial[j] = r(partial[j] + partial[j + half]);
    blocks.push(partial[0]);
  }
  let level = blocks;
  while (level.length > 1)
    level = Array.from({length: Math.ceil(level.length / 2)}, (_, k) => 2 * k + 1 < level.length ? r(level[2 * k] + level[2 * k + 1]) : level[2 * k]);
  return level.length ? level[0] : 0;
}

/** The bias gradient: each channel of the output's gradient, added over its positions. */
function biasGradient(gradient, channels) {
  const per = gradient.length / channels;
  return Float32Array.from({length: channels}, (_, c) => pureSum(gradient, c * per, per));
}
