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

/** The terms of one number of the small side: taps in row-major order, then the channels of the group. */
function termsOfSmall(f, small) {
  const terms = [], [SH, SW] = f.small, [LH, LW] = f.large, [KH, KW] = f.kernel;
  const o = Math.floor(small / (SH * SW)), y = Math.floor(small / SW) % SH, x = small % SW, g = Math.floor(o / f.smallPer);
  for (let a = 0; a < KH; a++) for (let b = 0; b < KW; b++) {
    const r = y * f.stride[0] - f.padding[0][0] + a * f.dilation[0], c = x * f.stride[1] - f.padding[1][0] + b * f.dilation[1];
    const inside = r >= 0 && r < LH && c >= 0 && c < LW;
    for (let i = 0; i < f.largePer; i++)
      terms.push(inside ? ((g * f.largePer + i) * LH + r) * LW + c : -1, ((o * f.largePer + i) * KH + a) * KW + b, small);
  }
  return terms;
}

/** The terms of one number of the large side: the taps that land on it, row-major, then the channels of the group. */
function termsOfLarge(f, large) {
  const terms = [], [SH, SW] = f.small, [LH, LW] = f.large, [KH, KW] = f.kernel;
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
      }
    }
  }
  return terms;
}

/** The terms of one weight: every position of the small side, row-major. */
function termsOfWeight(f, weight) {
  const terms = [], [SH, SW] = f.small, [LH, LW] = f.large, [KH, KW] = f.kernel;
  const b = weight % KW, a = Math.floor(weight / KW) % KH, i = Math.floor(weight / (KW * KH)) % f.largePer;
  const o = Math.floor(weight / (KW * KH * f.largePer)), ci = Math.floor(o / f.smallPer) * f.largePer + i;
  for (let y = 0; y < SH; y++) for (let x = 0; x < SW; x++) {
    const r = y * f.stride[0] - f.padding[0][0] + a * f.dilation[0], c = x * f.stride[1] - f.padding[1][0] + b * f.dilation[1];
    const inside = r >= 0 && r < LH && c >= 0 && c < LW;
    terms.push(inside ? (ci * LH + r) * LW + c : -1, weight, (o * SH + y) * SW + x);
  }
  return terms;
}

const LARGE = 0, WEIGHT = 1, SMALL = 2;

/**
 * THE ORDER OF A SUM: the one place that says how the terms of a number are added. One chain of fused multiply-adds from zero,
 * in the order of the terms. `first` and `second` are arrays, the two faces say which index of a term reads each; `take`
 * (optional) leaves terms out; `each` (optional) is told every running sum.
 */
function addUp(terms, first, firstFace, second, secondFace, take, each) {
  let sum = 0;
  for (let t = 0; t < terms.length; t += 3) {
    if (take && !take(terms, t)) continue;
    const i = terms[t + firstFace], j = terms[t + secondFace];
    sum = fma32(i < 0 ? 0 : first[i], j < 0 ? 0 : second[j], sum);
    if (each) each(t / 3, sum);
  }
  return sum;
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

/** NumPy's sum of neighbours: eight sums side by side in blocks of at most 128, larger ones halved. */
function pairwise(a, start, count) {
  const r = Math.fround;
  if (count < 8) {
    let sum = 0;
    for (let i = 0; i < count; i++) sum = r(sum + a[start + i]);
    return sum;
  }
  if (count <= 128) {
    const s = Array.from(a.subarray(start, start + 8)), whole = count - count % 8;
    for (let i = 8; i < whole; i += 8) for (let k = 0; k < 8; k++) s[k] = r(s[k] + a[start + i + k]);
    let sum = r(r(r(s[0] + s[1]) + r(s[2] + s[3])) + r(r(s[4] + s[5]) + r(s[6] + s[7])));
    for (let i = whole; i < count; i++) sum = r(sum + a[start + i]);
    return sum;
  }
  const half = Math.floor(count / 2), cut = half - half % 8;
  return r(pairwise(a, start, cut) + pairwise(a, start + cut, count - cut));
}

/** The bias gradient: each channel of the output's gradient, added over its positions. */
function biasGradient(gradient, channels) {
  const per = gradient.length / channels;
  return Float32Array.from({length: channels}, (_, c) => pairwise(gradient, c * per, per));
}
