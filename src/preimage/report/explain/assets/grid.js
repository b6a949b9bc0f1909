// A grid of numbers on a canvas: one array, its planes (channels) side by side, coloured and with figures where there is room.
// It can be pointed at, walked over with the keyboard, and edited; what is marked on it comes from outside.

const theme = {};
/** Colours of the page as numbers, read anew when the scheme changes. */
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ['paper', 'card', 'ink', 'soft', 'line', 'accent', 'zero', 'minus', 'plus'])
    theme[name] = style.getPropertyValue('--' + name).trim();
  for (const name of ['zero', 'minus', 'plus', 'card'])
    theme[name + 'Rgb'] = [1, 3, 5].map(i => parseInt(theme[name].slice(i, i + 2), 16));
  theme.mono = style.getPropertyValue('--figures').trim();
  shades.clear();
}

const shades = new Map(), SHADES = 32;
/** The colour of a value: from zero's colour towards minus or plus, in steps; and the colour of a figure on it. */
function shadeOf(value, scale) {
  const level = Number.isFinite(value) && scale > 0 ? Math.round(SHADES * Math.max(-1, Math.min(1, value / scale))) : value > 0 ? SHADES : value < 0 ? -SHADES : 0;
  let shade = shades.get(level);
  if (!shade) {
    const end = level < 0 ? theme.minusRgb : theme.plusRgb, t = Math.pow(Math.abs(level) / SHADES, .8);
    const rgb = theme.zeroRgb.map((z, i) => Math.round(z + t * (end[i] - z)));
    const light = .2126 * (rgb[0] / 255) ** 2.2 + .7152 * (rgb[1] / 255) ** 2.2 + .0722 * (rgb[2] / 255) ** 2.2;
    shade = {fill: `rgb(${rgb.join(',')})`, ink: light > .22 ? '#16161a' : '#ffffff', rgb};
    shades.set(level, shade);
  }
  return shade;
}

/** The largest size of a number in an array, for its colours; at least a little. */
function scaleOf(values) {
  let most = 0;
  for (let i = 0; i < values.length; i++) { const v = Math.abs(values[i]); if (v > most && v < Infinity) most = v; }
  return most || 1;
}

/** A number in so many letters, with fewer digits where three do not fit. */
function fitted(value, letters) {
  const text = brief(value);
  if (text.length <= letters || !Number.isFinite(value)) return text;
  if (text.includes('e')) return value.toExponential(0).replace('e+', 'e').replace(/-/g, '−');
  return brief(+value.toPrecision(Math.abs(value) >= 100 ? 3 : Math.abs(value) >= .1 ? 2 : 1)).replace(/^(−?)0\./, '$1.');
}

const PLANE_GAP = 10, LABEL_HEIGHT = 16;

class Grid {
  /** options: name (of the array), title, editable, onHover(index), onPick(index), onEdit(index). */
  constructor(parent, options) {
    this.options = options;
    this.figure = element('figure', {class: 'grid'}, parent);
    this.caption = element('figcaption', {}, this.figure);
    this.caption.append(element('b', {text: options.title}), element('span', {class: 'shape', text: ''}));
    this.canvas = element('canvas', options.quiet ? {'aria-hidden': 'true'} : {tabindex: '0', role: 'application', 'aria-roledescription': 'grid of numbers'}, this.figure);
    this.context = this.canvas.getContext('2d');
    this.cursor = 0;
    this.margin = [0, 0, 0, 0];
    if (!options.quiet) this.listen();
  }

  /** The array's shape [..., rows, columns], the planes to show, the margin of padding around (top, right, bottom, left). */
  layout(shape, planes, margin, cell, perRow) {
    [this.rows, this.columns] = shape.length > 1 ? shape.slice(-2) : [1, 1];
    Object.assign(this, {planes, margin, cell, perRow, labelled: planes.length > 1 || product(shape.slice(0, -2)) > 1});
    const [top, right, bottom, left] = margin;
    this.planeWidth = (this.columns + left + right) * cell;
    this.planeHeight = (this.rows + top + bottom) * cell + (this.labelled ? LABEL_HEIGHT : 0);
    this.width = Math.ceil(perRow * this.planeWidth + (perRow - 1) * PLANE_GAP) + 4;
    this.height = Math.ceil(Math.ceil(planes.length / perRow) * (this.planeHeight + PLANE_GAP) - PLANE_GAP) + 4;
    const ratio = Math.min(3, window.devicePixelRatio || 1);
    if (this.canvas.width !== Math.round(this.width * ratio) || this.canvas.height !== Math.round(this.height * ratio)) {
      this.canvas.width = Math.round(this.width * ratio);
      this.canvas.height = Math.round(this.height * ratio);
      this.canvas.style.width = this.width + 'px';
      this.canvas.style.height = this.height + 'px';
    }
    this.ratio = ratio;
    this.caption.lastChild.textContent = ' ' + (shape.length > 1 ? shape : [shape[0]]).filter((n, i) => shape.length < 3 || n > 1 || i >= shape.length - 1).join(' × ');
  }

  /** The corner of a cell, for a flat index; null where its plane is not shown. */
  corner(index) {
    const per = this.rows * this.columns, slot = this.planes.indexOf(Math.floor(index / per));
    if (slot < 0 || index < 0) return null;
    const inside = index % per;
    return this.cornerOf(slot, Math.floor(inside / this.columns), inside % this.columns);
  }

  cornerOf(slot, row, column) {
    return [2 + (slot % this.perRow) * (this.planeWidth + PLANE_GAP) + (column + this.margin[3]) * this.cell,
      2 + Math.floor(slot / this.perRow) * (this.planeHeight + PLANE_GAP) + (this.labelled ? LABEL_HEIGHT : 0) + (row + this.margin[0]) * this.cell];
  }

  /** The flat index under a point of the canvas, or -1. */
  indexAt(x, y) {
    for (let slot = 0; slot < this.planes.length; slot++) {
      const [left, top] = this.cornerOf(slot, 0, 0), column = Math.floor((x - left) / this.cell), row = Math.floor((y - top) / this.cell);
      if (row >= 0 && row < this.rows && column >= 0 && column < this.columns) return (this.planes[slot] * this.rows + row) * this.columns + column;
    }
    return -1;
  }

  /**
   * Draw: values, scale, shown(index) false where a number is not there yet, marks: [{index or at: [plane, row, column], kind}] with
   * kind lit, current, term or hover. Where `key` is the same as before the cells are taken from the last time.
   */
  draw({values, scale, shown, marks, names, key}) {
    const c = this.context, whole = key === undefined ? null : [key, scale, this.planes, this.cell, this.width, this.height, this.ratio, theme.card].join();
    if (whole === null || whole !== this.painted) {
      this.painted = whole;
      if (!this.base && whole !== null) this.base = document.createElement('canvas');
      const target = whole === null ? c : this.base.getContext('2d');
      if (whole !== null) { this.base.width = this.canvas.width; this.base.height = this.canvas.height; }
      target.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      target.clearRect(0, 0, this.width, this.height);
      this.drawCells(target, values, scale, shown, names);
    }
    if (whole !== null) {
      c.setTransform(1, 0, 0, 1, 0, 0);
      c.clearRect(0, 0, this.canvas.width, this.canvas.height);
      c.drawImage(this.base, 0, 0);
    }
    c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    this.drawLit((marks || []).filter(mark => mark.kind === 'lit'));
    for (const mark of marks || []) if (mark.kind !== 'lit') this.drawMark(mark);
    if (document.activeElement === this.canvas) this.drawMark({index: this.cursor, kind: 'cursor'});
  }

  drawCells(c, values, scale, shown, names) {
    const cell = this.cell, figures = cell >= 22, size = Math.max(9, Math.min(15, Math.floor(cell * .36))), letter = size * .6;
    c.textBaseline = 'middle';
    this.planes.forEach((plane, slot) => {
      if (this.labelled) {
        c.fillStyle = theme.soft; c.font = '11px ' + theme.mono; c.textAlign = 'left';
        const [x, y] = this.cornerOf(slot, -this.margin[0], -this.margin[3]);
        c.fillText(names ? names(plane) : `channel ${plane}`, x, y - 8);
      }
      this.drawMargin(c, slot);
      if (!figures && cell < 10) { this.drawPixels(c, slot, plane, values, scale, shown); return; }
      c.textAlign = 'center';
      c.font = `${size}px ${theme.mono}`;
      for (let row = 0, i = plane * this.rows * this.columns; row < this.rows; row++) for (let column = 0; column < this.columns; column++, i++) {
        const [x, y] = this.cornerOf(slot, row, column), here = !shown || shown(i), shade = here ? shadeOf(values[i], scale) : null;
        c.fillStyle = here ? shade.fill : theme.card;
        c.fillRect(x + .5, y + .5, cell - 1, cell - 1);
        if (!here) { c.fillStyle = theme.line; c.fillRect(x + cell / 2 - 1, y + cell / 2 - 1, 2, 2); }
        if (here && (figures || !Number.isFinite(values[i]))) {
          c.fillStyle = shade.ink;
          c.fillText(fitted(values[i], (cell - 3) / letter), x + cell / 2, y + cell / 2 + 1, cell - 2);
        }
      }
    });
  }

  /** Cells too small for figures: one pixel each, enlarged. */
  drawPixels(c, slot, plane, values, scale, shown) {
    const {rows, columns} = this, image = new ImageData(columns, rows), data = image.data;
    for (let k = 0, i = plane * rows * columns; k < rows * columns; k++, i++) {
      const here = !shown || shown(i), rgb = here ? shadeOf(values[i], scale).rgb : theme.cardRgb;
      data[4 * k] = rgb[0]; data[4 * k + 1] = rgb[1]; data[4 * k + 2] = rgb[2]; data[4 * k + 3] = 255;
    }
    if (!this.pixels) this.pixels = document.createElement('canvas');
    this.pixels.width = columns;
    this.pixels.height = rows;
    this.pixels.getContext('2d').putImageData(image, 0, 0);
    c.imageSmoothingEnabled = false;
    const [x, y] = this.cornerOf(slot, 0, 0);
    c.drawImage(this.pixels, x, y, columns * this.cell, rows * this.cell);
  }

  /** All that take part, in one stroke. */
  drawLit(marks) {
    const c = this.context, cell = this.cell, width = Math.min(2, cell / 5), inset = width / 2 + (cell >= 10 ? .5 : 0);
    c.beginPath();
    for (const {index} of marks) {
      const corner = this.corner(index);
      if (corner) c.rect(corner[0] + inset, corner[1] + inset, cell - 2 * inset, cell - 2 * inset);
    }
    c.lineWidth = width; c.strokeStyle = theme.accent;
    c.stroke();
  }

  /** Cells of padding: there, but not part of the array. */
  drawMargin(c, slot) {
    const [top, right, bottom, left] = this.margin;
    if (!(top + right + bottom + left)) return;
    const [x, y] = this.cornerOf(slot, -top, -left), [innerX, innerY] = this.cornerOf(slot, 0, 0), cell = this.cell;
    c.save();
    c.beginPath();
    c.rect(x, y, this.planeWidth, (this.rows + top + bottom) * cell);
    c.rect(innerX, innerY, this.columns * cell, this.rows * cell);
    c.clip('evenodd');
    c.strokeStyle = theme.line;
    c.lineWidth = 1;
    for (let d = -this.planeHeight; d < this.planeWidth; d += 6) { c.beginPath(); c.moveTo(x + d, y); c.lineTo(x + d + this.planeHeight, y + this.planeHeight); c.stroke(); }
    c.restore();
  }

  drawMark({index, at, kind}) {
    const corner = at ? this.planes.includes(at[0]) ? this.cornerOf(this.planes.indexOf(at[0]), at[1], at[2]) : null : this.corner(index);
    if (!corner) return;
    const c = this.context, cell = this.cell, [x, y] = corner;
    const [width, colour, dash] = {current: [Math.min(3.5, cell / 3), theme.accent, []], term: [Math.min(3, cell / 3), theme.ink, []],
      hover: [2, theme.ink, [3, 2]], cursor: [2, theme.ink, []]}[kind];
    const inset = kind === 'current' || kind === 'cursor' ? 0 : width / 2 + (cell >= 10 ? .5 : 0);
    if (cell >= 8) { c.lineWidth = width + 2; c.strokeStyle = theme.card; c.setLineDash([]); c.strokeRect(x + inset, y + inset, cell - 2 * inset, cell - 2 * inset); }
    c.lineWidth = width; c.strokeStyle = colour; c.setLineDash(dash);
    c.strokeRect(x + inset, y + inset, cell - 2 * inset, cell - 2 * inset);
    c.setLineDash([]);
  }

  /** An outline around a block of cells of one plane, which may reach over the margin. */
  drawBlock(plane, row, column, rows, columns, dash) {
    const slot = this.planes.indexOf(plane);
    if (slot < 0) return;
    const c = this.context, [x, y] = this.cornerOf(slot, row, column);
    c.lineWidth = 2.5; c.strokeStyle = theme.accent; c.setLineDash(dash ? [5, 3] : []);
    c.strokeRect(x, y, columns * this.cell, rows * this.cell);
    c.setLineDash([]);
  }

  listen() {
    const {canvas, options} = this;
    const find = event => { const box = canvas.getBoundingClientRect(); return this.indexAt(event.clientX - box.left, event.clientY - box.top); };
    canvas.addEventListener('pointermove', event => options.onHover(find(event)));
    canvas.addEventListener('pointerleave', () => options.onHover(-1));
    canvas.addEventListener('click', event => { const index = find(event); if (index >= 0) { this.cursor = index; options.onPick(index); } });
    canvas.addEventListener('dblclick', event => { const index = find(event); if (index >= 0) { event.preventDefault(); options.onEdit(index); } });
    canvas.addEventListener('focus', () => { if (!canvas.matches(':focus-visible')) return; if (!this.corner(this.cursor)) this.cursor = this.planes[0] * this.rows * this.columns; options.onHover(this.cursor); });
    canvas.addEventListener('blur', () => options.onHover(-1));
    canvas.addEventListener('keydown', event => {
      const per = this.rows * this.columns, plane = Math.floor(this.cursor / per), row = Math.floor(this.cursor % per / this.columns), column = this.cursor % this.columns;
      const move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -column], End: [0, this.columns - 1 - column]}[event.key];
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (move) {
        const to = [Math.min(this.rows - 1, Math.max(0, row + move[0])), Math.min(this.columns - 1, Math.max(0, column + move[1]))];
        this.cursor = plane * per + to[0] * this.columns + to[1];
        options.onHover(this.cursor);
      } else if (event.key === 'Enter') options.onEdit(this.cursor);
      else if (event.key === 'PageDown' || event.key === 'PageUp') {
        const slot = this.planes.indexOf(plane) + (event.key === 'PageDown' ? 1 : -1);
        if (this.planes[slot] !== undefined) { this.cursor += (this.planes[slot] - plane) * per; options.onHover(this.cursor); }
      } else if (event.key === 'Escape') { options.onHover(-1); options.onPick(-1); }
      else return;
      event.preventDefault(); event.stopPropagation();
    });
  }
}

/** An element with attributes (`text` and `on*` apart) at the end of a parent. */
function element(tag, attributes = {}, parent = null) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') node.textContent = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name.startsWith('aria-') || value !== false && value !== null) node.setAttribute(name, value === true && !name.startsWith('aria-') ? '' : value);
  }
  if (parent) parent.append(node);
  return node;
}

const byId = id => document.getElementById(id);
