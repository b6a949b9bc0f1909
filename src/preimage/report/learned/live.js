// One picture painted from its strokes: value times stencil, added where it stands, on the slowly varying part.
const unpack = (text, Kind) => new Kind(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
const SINGLE = 10, FASTER = 1.035, PAUSE_MS = 420, SHOWN_TERMS = 10;

async function decoded(source, channels) {  // an image's values, plane after plane
  const image = source instanceof HTMLImageElement ? source : Object.assign(new Image(), { src: source });
  await image.decode();
  const width = image.naturalWidth, height = image.naturalHeight;
  const canvas = Object.assign(document.createElement('canvas'), { width, height });
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const bytes = context.getImageData(0, 0, width, height).data, n = width * height, out = new Float32Array(channels * n);
  for (let c = 0; c < channels; c++) for (let i = 0; i < n; i++) out[c * n + i] = bytes[4 * i + c];
  return out;
}

function show(canvas, planes, channels, width, height, gain = 1, middle = 0) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext('2d'), image = context.createImageData(width, height), n = width * height;
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = 255 * (middle + gain * planes[(channels === 1 ? 0 : c) * n + i]);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

class Easel {
  constructor(box, stencils, data, slow, original) {
    Object.assign(this, { box, stencils, slow, original });
    [this.channels, this.height, this.width] = data.shape;
    const s = data.strokes;
    this.stroke = { stencil: unpack(s.stencil, Uint16Array), row: unpack(s.row, Int16Array), column: unpack(s.column, Int16Array),
      plane: unpack(s.plane, Uint8Array), value: unpack(s.value, Float32Array), wraps: s.wraps };
    this.total = this.stroke.value.length;
    this.strong = Uint32Array.from({ length: this.total }, (_, i) => i);
    const rank = new Map(stencils.order.map((k, i) => [k, i]));
    this.by = this.strong.slice().sort((a, b) => rank.get(this.stroke.stencil[a]) - rank.get(this.stroke.stencil[b]) || a - b);
    this.order = this.strong;
    this.count = 0;
    this.planes = slow.slice();
    const find = name => box.querySelector(name);
    Object.assign(this, { canvas: find('.sheet canvas'), frame: find('.frame'), brush: find('.brush'), button: find('.paint'),
      range: find('.count'), text: find('.count-text'), select: find('select'), said: find('.stroke span'), tile: find('.stroke canvas'),
      sum: find('.sum'), terms: find('.terms') });
    this.listen();
    this.look(...this.clearest());
    this.to(0);
  }

  // -- painting ---------------------------------------------------------------------------------------------------------
  add(out, index) {
    const { size, deep, values } = this.stencils, s = this.stroke, n = this.width * this.height;
    const from = s.stencil[index] * deep * size * size, value = s.value[index];
    for (let c = 0; c < deep; c++) for (let a = 0; a < size; a++) {
      let y = s.row[index] + a;
      if (s.wraps) y %= this.height; else if (y < 0 || y >= this.height) continue;
      const line = (s.plane[index] + c) * n + y * this.width, source = from + (c * size + a) * size;
      for (let b = 0; b < size; b++) {
        let x = s.column[index] + b;
        if (s.wraps) x %= this.width; else if (x < 0 || x >= this.width) continue;
        out[line + x] += value * values[source + b];
      }
    }
  }

  to(count) {
    count = Math.max(0, Math.min(this.total, count));
    if (count < this.count) { this.planes.set(this.slow); this.count = 0; }
    for (; this.count < count; this.count++) this.add(this.planes, this.order[this.count]);
    show(this.canvas, this.planes, this.channels, this.width, this.height);
    this.range.value = this.total ? Math.round(1000 * Math.log1p(count) / Math.log1p(this.total)) : 0;
    const what = count ? `${count.toLocaleString('en')} of ${this.total.toLocaleString('en')} strokes` : 'the slow part alone';
    this.text.textContent = this.original ? `${what}: ${this.psnr().toFixed(2)} dB` : what;
    this.last(count);
  }

  psnr() {
    let square = 0;
    for (let i = 0; i < this.planes.length; i++) square += (this.planes[i] - this.original[i]) ** 2;
    return -10 * Math.log10(Math.max(square / this.planes.length, 1e-20));
  }

  last(count) {  // the newest stroke, by itself
    this.brush.hidden = !count || count > 400 && count < this.total;
    this.tile.hidden = !count;
    if (!count) { this.said.textContent = `${this.total.toLocaleString('en')} strokes are to come.`; return; }
    const index = this.order[count - 1], s = this.stroke, { size, deep } = this.stencils;
    this.put(this.brush, s.column[index], s.row[index]);
    if (count === this.total) this.brush.hidden = true;
    const stencil = this.stencils.of(s.stencil[index]);
    show(this.tile, stencil.map(v => Math.sign(s.value[index]) * v), deep, size, size, 0.5 / this.stencils.largest(s.stencil[index]), 0.5);
    this.said.textContent = `stroke ${count.toLocaleString('en')}: ${signed(s.value[index])} × stencil ${s.stencil[index]}, its middle at`
      + ` ${s.column[index] + (size >> 1)} across, ${s.row[index] + (size >> 1)} down`;
  }

  put(box, column, row) {
    const size = this.stencils.size, style = box.style;
    style.left = `${100 * column / this.width}%`; style.top = `${100 * row / this.height}%`;
    style.width = `${100 * size / this.width}%`; style.height = `${100 * size / this.height}%`;
  }

  clearest() {  // of the places of the strongest strokes the one that fewest others touch: a short sum
    const s = this.stroke, size = this.stencils.size, few = Math.min(this.total, 120);
    let best = [0, 0], least = Infinity;
    for (let j = 0; j < few; j++) {
      let count = 0;
      for (let i = 0; i < this.total; i++) count += Math.abs(s.row[i] - s.row[j]) < size && Math.abs(s.column[i] - s.column[j]) < size;
      if (count < least) { least = count; best = [s.column[j], s.row[j]]; }
    }
    return best;
  }

  // -- one place --------------------------------------------------------------------------------------------------------
  look(column, row) {
    const size = this.stencils.size, area = size * size, n = this.width * this.height, s = this.stroke;
    column = Math.max(0, Math.min(this.width - size, column)); row = Math.max(0, Math.min(this.height - size, row));
    Object.assign(this, { column, row });
    this.put(this.frame, column, row);
    const cut = planes => {
      const out = new Float32Array(this.channels * area);
      for (let c = 0; c < this.channels; c++) for (let a = 0; a < size; a++) for (let b = 0; b < size; b++)
        out[c * area + a * size + b] = planes[c * n + (row + a) * this.width + column + b];
      return out;
    };
    const slow = cut(this.slow), found = [], near = (d, whole) => s.wraps ? d - whole * Math.round(d / whole) : d;
    for (let i = 0; i < this.total; i++) {
      const down = near(s.row[i] - row, this.height), across = near(s.column[i] - column, this.width);
      if (down <= -size || down >= size || across <= -size || across >= size) continue;
      const part = this.part(i, down, across);
      let energy = 0;
      for (const v of part) energy += v * v;
      if (energy) found.push({ i, part, energy });
    }
    found.sort((a, b) => b.energy - a.energy);
    const shown = found.slice(0, SHOWN_TERMS), rest = new Float32Array(slow.length), whole = slow.slice();
    found.forEach(({ part }, j) => part.forEach((v, q) => { whole[q] += v; if (j >= SHOWN_TERMS) rest[q] += v; }));
    let largest = 1e-9;
    for (const { part } of shown) for (const v of part) largest = Math.max(largest, Math.abs(v));
    this.place = { slow, shown, rest, whole, found: found.length };
    this.tell(slow, shown, rest, whole, found.length, 0.5 / largest, this.original && cut(this.original));
  }

  part(index, down, across) {  // what a stroke adds inside the frame
    const { size, deep, values } = this.stencils, s = this.stroke, area = size * size, out = new Float32Array(this.channels * area);
    const from = s.stencil[index] * deep * area;
    for (let c = 0; c < deep; c++) for (let a = 0; a < size; a++) for (let b = 0; b < size; b++) {
      const y = down + a, x = across + b;
      if (y >= 0 && y < size && x >= 0 && x < size)
        out[(s.plane[index] + c) * area + y * size + x] += s.value[index] * values[from + (c * size + a) * size + b];
    }
    return out;
  }

  tell(slow, shown, rest, whole, count, gain, original) {
    const size = this.stencils.size, tiles = [];
    const tile = (planes, title, text, kind = '', strength = 1, middle = 0) => {
      const figure = document.createElement('figure'), canvas = document.createElement('canvas');
      const caption = document.createElement('figcaption'), bold = document.createElement('b');
      figure.className = kind; canvas.className = 'sharp';
      canvas.setAttribute('role', 'img'); canvas.setAttribute('aria-label', `${title} ${text}`);
      bold.textContent = title; caption.append(bold, text); figure.append(canvas, caption);
      show(canvas, planes, this.channels, size, size, strength, middle);
      tiles.push(figure);
    };
    if (original) tile(original, 'original', '');
    tile(whole, 'painted', '= the sum of:');
    tile(slow, 'slow part', '');
    for (const { i, part } of shown)
      tile(part, `${signed(this.stroke.value[i])} ×`, `stencil ${this.stroke.stencil[i]}`, this.stroke.value[i] > 0 ? 'plus' : 'minus', gain, 0.5);
    const own = Math.min(gain, 0.5 / Math.max(1e-9, ...Array.from(rest, Math.abs)));
    if (count > shown.length)
      tile(rest, '+ the rest', `${count - shown.length} more${own < gain ? `, ${own.toFixed(1)} times as strong` : ''}`, '', own, 0.5);
    this.terms.replaceChildren(...tiles);
    this.sum.textContent = `The ${size} × ${size} pixels in the white frame, ${this.column} across and ${this.row} down:`
      + ` the slow part and the ${count} strokes that touch them, the strongest here first. Strokes are drawn around mid-grey,`
      + ` ${gain.toFixed(gain < 10 ? 1 : 0)} times as strong.`;
  }

  // -- what the reader does ---------------------------------------------------------------------------------------------
  listen() {
    this.range.addEventListener('input', () => { this.stop(); this.to(Math.round(Math.expm1(this.range.value / 1000 * Math.log1p(this.total)))); });
    this.box.querySelector('.one').addEventListener('click', () => { this.stop(); this.to(this.count + 1); });
    this.button.addEventListener('click', () => this.running ? this.stop() : this.play());
    this.select.addEventListener('change', () => {
      const count = this.count;
      this.order = this.select.value === 'stencil' ? this.by : this.strong;
      this.planes.set(this.slow); this.count = 0; this.to(count);
    });
    this.canvas.addEventListener('pointerdown', event => {
      const at = this.canvas.getBoundingClientRect(), half = this.stencils.size / 2;
      this.look(Math.round((event.clientX - at.left) / at.width * this.width - half), Math.round((event.clientY - at.top) / at.height * this.height - half));
    });
    this.canvas.addEventListener('keydown', event => {
      const step = event.shiftKey ? this.stencils.size : 1;
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!move) return;
      event.preventDefault();
      this.look(this.column + step * move[0], this.row + step * move[1]);
    });
  }

  play() {
    if (this.count >= this.total) this.to(0);
    this.running = true; this.button.textContent = 'Pause';
    let next = 0;
    const step = now => {
      if (!this.running) return;
      if (now >= next) {
        this.to(this.count < SINGLE ? this.count + 1 : Math.ceil(this.count * FASTER));
        next = this.count < SINGLE ? now + PAUSE_MS : 0;
        if (this.count >= this.total) return this.stop();
      }
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  stop() { this.running = false; this.button.textContent = 'Paint'; }
}

const signed = value => (value < 0 ? '−' : '+') + Math.abs(value).toPrecision(2);

async function easels() {
  const data = JSON.parse(document.getElementById('live-stencils').textContent), [, deep, size] = data.shape, each = deep * size * size;
  const values = unpack(data.values, Float32Array), of = k => values.subarray(k * each, (k + 1) * each);
  const stencils = { values, deep, size, order: data.order, of, largest: k => Math.max(1e-12, ...Array.from(of(k), Math.abs)) };
  for (const box of document.querySelectorAll('.live')) {
    const own = JSON.parse(box.querySelector('script').textContent), channels = own.shape[0];
    const [whole, rest] = await Promise.all(own.slow.map(source => decoded(source, channels)));
    const original = document.getElementById(box.dataset.original);
    box.easel = new Easel(box, stencils, own, whole.map((v, i) => (v + rest[i] / 255) / 255),
      original && (await decoded(original, channels)).map(v => v / 255));
  }
}
easels();
