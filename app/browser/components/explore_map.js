// The map of the library: a point for each picture, the pictures themselves as one comes closer, a lasso.
//
// All points are painted into one bitmap, which takes milliseconds for 100,000 of them on any machine; a graphics
// processor is not needed. The groups are ordinary links below the map, for those who cannot see or point at it.

const CELL = 76; // pictures are shown in a grid of this size, so that they do not cover each other
const MOST_IN_VIEW_FOR_PICTURES = 2500; // with more in view, the points tell more than a few pictures among them
const REACH = 14; // how near the pointer must come to a point
const MOST_LOADING = 6;
const MOST_KEPT = 600;
const MOST_VERTICES = 100;
const BUCKETS = 128; // of the grid that finds the point at the pointer
const ZOOM_STEP = 1.5;

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".explore_map");
  root.imago ??= new ExploreMap(root);
  root.imago.update(data, setTriggerValue);
  return () => root.imago.destroy();
}

class ExploreMap {
  constructor(root) {
    this.root = root;
    this.canvas = make("canvas", { tabindex: "0", role: "application", "aria-roledescription": "map", "aria-describedby": "imago-map-keys" });
    this.labels = make("div", { class: "labels", "aria-hidden": "true" });
    this.preview = make("img", { class: "preview", alt: "", hidden: true });
    this.waiting = make("p", { class: "waiting", role: "status" });
    const tool = (path, label, action) => make("button", { type: "button", class: "tool", "aria-label": label, title: label, onclick: action }, drawing(path));
    this.lassoButton = make(
      "button",
      { type: "button", class: "tool wide", "aria-pressed": "false", title: "Draw around pictures (L, or drag with Shift)", onclick: () => this.setLasso(!this.isLasso) },
      drawing("M12 4c5 0 9 2.5 9 6s-4 6-9 6-9-2.5-9-6 4-6 9-6zM7 15.5c-2 1-2 3.5 0 4.5"),
      make("span", { text: "Draw around" }),
    );
    this.tools = make(
      "div",
      { class: "tools", role: "toolbar", "aria-label": "Map" },
      this.lassoButton,
      tool("M12 5v14M5 12h14", "Closer (+)", () => this.zoom(ZOOM_STEP)),
      tool("M5 12h14", "Farther (-)", () => this.zoom(1 / ZOOM_STEP)),
      tool("M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5", "Show all (0)", () => this.fit()),
      tool("M5 5h3M11 5h2M16 5h3v3M19 11v2M19 16v3h-3M13 19h-2M8 19H5v-3M5 13v-2M5 8V5M9 12l2.2 2.2L15.5 10", "Choose what is in view (Enter)", () => this.chooseView()),
    );
    this.told = make("span", { role: "status" });
    this.go = make("button", { type: "button", class: "go", text: "Search among them", onclick: () => this.open() });
    this.bar = make("div", { class: "chosen", hidden: true }, this.told, this.go, make("button", { type: "button", class: "plain", text: "Let go", onclick: () => this.choose(null) }));
    this.keys = make("p", { id: "imago-map-keys", class: "keys", text: "Arrow keys move the map, + and - zoom, 0 shows all, Enter chooses what is in view, Escape lets go. The groups below are links." });
    this.stage = make("div", { class: "stage" }, this.canvas, this.labels, this.preview, this.waiting, this.tools, this.bar);
    this.groups = make("ul", { class: "groups" });
    this.heading = make("h2", { text: "Groups" });
    root.append(this.stage, this.keys, this.heading, this.groups);
    this.paper = this.canvas.getContext("2d", { alpha: false });
    this.pictures = new Map(); // index -> image, the longest unused first
    this.queue = [];
    this.loading = 0;
    this.pointers = new Map();
    this.part = null;
    this.isIn = null;
    this.lasso = null;
    this.resizing = new ResizeObserver(() => this.resize());
    this.resizing.observe(this.stage);
    this.recolour = () => this.schedule();
    this.scheme = window.matchMedia("(prefers-color-scheme: dark)");
    this.scheme.addEventListener("change", this.recolour);
    const on = (name, listener, options) => this.canvas.addEventListener(name, listener.bind(this), options);
    on("pointerdown", this.onDown);
    on("pointermove", this.onMove);
    on("pointerup", this.onUp);
    on("pointercancel", this.onCancel);
    on("pointerleave", () => this.hidePreview());
    on("wheel", this.onWheel, { passive: false });
    on("keydown", this.onKey);
    on("dblclick", (event) => this.zoom(2, event.offsetX, event.offsetY));
  }

  destroy() {
    this.resizing.disconnect();
    this.scheme.removeEventListener("change", this.recolour);
    this.queue = [];
    this.isGone = true;
    this.root.replaceChildren();
    delete this.root.imago;
  }

  update(data, trigger) {
    this.trigger = trigger;
    const isOther = !this.data || this.data.points !== data.points;
    const hasOtherPart = !this.data || this.data.chosen !== data.chosen;
    this.data = data;
    this.canvas.setAttribute("aria-label", `Map of ${data.count.toLocaleString()} pictures in ${data.groups.length} groups`);
    if (isOther) {
      this.listGroups();
      this.load();
    } else if (hasOtherPart && this.count) this.choose(data.chosen, { isFar: true });
  }

  async load() {
    const { points } = this.data;
    if (!this.count) this.waiting.textContent = "Fetching the map ...";
    let bytes;
    try {
      const response = await fetch(this.data.base + points);
      if (!response.ok) throw new Error();
      bytes = await response.arrayBuffer();
    } catch {
      this.waiting.textContent = "The map could not be fetched: is Imago still running?";
      return;
    }
    if (this.isGone || this.data.points !== points) return;
    this.waiting.textContent = "";
    const [count] = new Uint32Array(bytes, 0, 1);
    this.count = count;
    this.ids = new Float64Array(bytes, 8, count);
    this.places = new Uint16Array(bytes, 8 + 8 * count, 2 * count);
    this.groupOf = new Uint16Array(bytes, 8 + 12 * count, count);
    this.pictures.clear();
    this.index();
    this.measure();
    this.resize();
    this.fit();
    if (this.data.chosen) this.choose(this.data.chosen, { isFar: true });
  }

  // Points by the bucket they lie in, for whatever asks what is near.
  index() {
    const { count, places } = this;
    this.bucketSize = this.data.extent / BUCKETS;
    const starts = new Uint32Array(BUCKETS * BUCKETS + 1);
    const bucketOf = new Uint16Array(count);
    for (let at = 0; at < count; at++) {
      const bucket = Math.floor(places[2 * at + 1] / this.bucketSize) * BUCKETS + Math.floor(places[2 * at] / this.bucketSize);
      bucketOf[at] = bucket;
      starts[bucket + 1]++;
    }
    for (let bucket = 0; bucket < BUCKETS * BUCKETS; bucket++) starts[bucket + 1] += starts[bucket];
    const filled = starts.slice();
    this.inBuckets = new Uint32Array(count);
    for (let at = 0; at < count; at++) this.inBuckets[filled[bucketOf[at]]++] = at;
    this.bucketStarts = starts;
  }

  measure() {
    let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let at = 0; at < this.count; at++) {
      const x = this.places[2 * at];
      const y = this.places[2 * at + 1];
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
    this.bounds = this.count ? { left, right, top, bottom } : { left: 0, right: 1, top: 0, bottom: 1 };
  }

  *near(left, top, right, bottom) {
    const clamp = (value) => Math.min(Math.max(Math.floor(value / this.bucketSize), 0), BUCKETS - 1);
    const [x1, x2, y1, y2] = [clamp(left), clamp(right), clamp(top), clamp(bottom)];
    for (let y = y1; y <= y2; y++) {
      const end = this.bucketStarts[y * BUCKETS + x2 + 1];
      for (let slot = this.bucketStarts[y * BUCKETS + x1]; slot < end; slot++) yield this.inBuckets[slot];
    }
  }

  // The view: screen = (map - view) * scale.

  resize() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    if (!width || !height) return;
    const density = Math.min(window.devicePixelRatio || 1, 2);
    const isFirst = !this.width;
    const wasFitted = this.isFitted;
    Object.assign(this, { width, height, density });
    this.canvas.width = Math.round(width * density);
    this.canvas.height = Math.round(height * density);
    this.bitmap = null;
    if (this.count && (isFirst || wasFitted)) this.fit();
    this.schedule();
  }

  fit(bounds = this.bounds, padding = 56) {
    if (!this.count || !this.width) return;
    const wide = Math.max(bounds.right - bounds.left, 20);
    const high = Math.max(bounds.bottom - bounds.top, 20);
    this.scale = Math.min((this.width - 2 * padding) / wide, (this.height - 2 * padding) / high);
    this.x = (bounds.left + bounds.right) / 2 - this.width / 2 / this.scale;
    this.y = (bounds.top + bounds.bottom) / 2 - this.height / 2 / this.scale;
    this.isFitted = bounds === this.bounds;
    if (this.isFitted) this.smallest = this.scale / 2;
    this.schedule();
  }

  zoom(factor, atX = this.width / 2, atY = this.height / 2) {
    if (!this.count) return;
    const scale = Math.min(Math.max(this.scale * factor, this.smallest ?? 0.01), 60);
    this.x += atX / this.scale - atX / scale;
    this.y += atY / this.scale - atY / scale;
    this.scale = scale;
    this.isFitted = false;
    this.hidePreview();
    this.schedule();
  }

  move(byX, byY) {
    this.x -= byX / this.scale;
    this.y -= byY / this.scale;
    this.isFitted = false;
    this.schedule();
  }

  // Painting.

  schedule() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (!this.isGone && this.count) this.paint();
    });
  }

  colours() {
    const style = getComputedStyle(this.root);
    const parse = (name) => {
      this.paper.fillStyle = style.getPropertyValue(name).trim() || "#888888";
      return this.paper.fillStyle;
    };
    const background = parse("--st-background-color");
    const key = background;
    if (this.palette?.key === key) return this.palette;
    const isDark = luminance(background) < 0.4;
    const groups = this.data.groups.length;
    const words = new Uint32Array(groups + 1);
    // The golden angle keeps the colours of neighbours in the list apart, whatever their number.
    for (let group = 0; group < groups; group++) {
      const [red, green, blue] = fromHue((group * 137.508 + 168) % 360, isDark ? 0.62 : 0.58, isDark ? 0.64 : 0.42);
      words[group] = (255 << 24) | (blue << 16) | (green << 8) | red;
    }
    const faint = isDark ? 74 : 205;
    words[groups] = (255 << 24) | (faint << 16) | (faint << 8) | faint;
    this.palette = { key, background, words, accent: parse("--st-primary-color"), isDark };
    return this.palette;
  }

  paint() {
    const { paper, canvas, density, scale, places } = this;
    const { background, words, accent } = this.colours();
    const [wide, high] = [canvas.width, canvas.height];
    if (!this.bitmap || this.bitmap.width !== wide || this.bitmap.height !== high) this.bitmap = paper.createImageData(wide, high);
    const pixels = new Uint32Array(this.bitmap.data.buffer);
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(background.slice(at, at + 2), 16));
    pixels.fill((255 << 24) | (b << 16) | (g << 8) | r);
    const right = this.x + this.width / scale;
    const bottom = this.y + this.height / scale;
    this.inView = [];
    for (const at of this.near(this.x, this.y, right, bottom)) {
      const x = places[2 * at];
      const y = places[2 * at + 1];
      if (x >= this.x && x <= right && y >= this.y && y <= bottom) this.inView.push(at);
    }
    const area = (this.width * this.height) / Math.max(this.inView.length, 1);
    const size = Math.max(2, Math.round(Math.min(Math.max(Math.sqrt(area) * 0.22, 2), 9) * density));
    const faint = words.length - 1;
    for (const isSecond of this.isIn ? [false, true] : [true]) {
      for (const at of this.inView) {
        if (this.isIn && Boolean(this.isIn[at]) !== isSecond) continue;
        const colour = words[isSecond ? this.groupOf[at] : faint];
        const startX = Math.round((places[2 * at] - this.x) * scale * density - size / 2);
        const startY = Math.round((places[2 * at + 1] - this.y) * scale * density - size / 2);
        for (let row = Math.max(startY, 0); row < Math.min(startY + size, high); row++)
          pixels.fill(colour, row * wide + Math.max(startX, 0), row * wide + Math.min(Math.max(startX + size, 0), wide));
      }
    }
    paper.setTransform(1, 0, 0, 1, 0, 0);
    paper.putImageData(this.bitmap, 0, 0);
    paper.setTransform(density, 0, 0, density, 0, 0);
    this.paintPictures();
    this.paintLasso(accent);
    this.placeLabels();
  }

  // One picture for each cell of a grid that is fixed to the map, so that moving does not exchange them.
  paintPictures() {
    this.shown = [];
    this.queue = [];
    if (this.inView.length > MOST_IN_VIEW_FOR_PICTURES) return;
    const { paper, scale, places } = this;
    const cell = CELL / 2 ** Math.floor(Math.log2(scale) + 0.5);
    const taken = new Set();
    const side = Math.min(CELL * (scale / 2 ** Math.floor(Math.log2(scale) + 0.5)) - 6, 96);
    for (const at of this.inView.toSorted((one, other) => one - other)) {
      const [cellX, cellY] = [Math.floor(places[2 * at] / cell), Math.floor(places[2 * at + 1] / cell)];
      const key = cellY * 65536 + cellX;
      if (taken.has(key)) continue;
      taken.add(key);
      const x = ((cellX + 0.5) * cell - this.x) * scale;
      const y = ((cellY + 0.5) * cell - this.y) * scale;
      const picture = this.picture(at);
      if (!picture) continue;
      const ratio = picture.naturalWidth / picture.naturalHeight;
      const [w, h] = ratio > 1 ? [side, side / ratio] : [side * ratio, side];
      paper.globalAlpha = this.isIn && !this.isIn[at] ? 0.25 : 1;
      paper.drawImage(picture, x - w / 2, y - h / 2, w, h);
      paper.globalAlpha = 1;
      this.shown.push({ at, left: x - w / 2, top: y - h / 2, right: x + w / 2, bottom: y + h / 2 });
    }
  }

  picture(at) {
    const there = this.pictures.get(at);
    if (there) {
      this.pictures.delete(at);
      this.pictures.set(at, there);
      return there.isReady ? there.image : null;
    }
    this.queue.push(at);
    clearTimeout(this.fetching);
    this.fetching = setTimeout(() => this.fetchPictures(), 150); // not while one is still moving
    return null;
  }

  fetchPictures() {
    while (this.loading < MOST_LOADING && this.queue.length && !this.isGone) {
      const at = this.queue.shift();
      if (this.pictures.has(at)) continue;
      const entry = { image: new Image(), isReady: false };
      this.pictures.set(at, entry);
      this.loading++;
      const end = (isReady) => {
        entry.isReady = isReady;
        this.loading--;
        if (isReady) this.schedule();
        this.fetchPictures();
      };
      entry.image.onload = () => end(true);
      entry.image.onerror = () => end(false);
      entry.image.src = this.thumbnail(at);
    }
    while (this.pictures.size > MOST_KEPT) this.pictures.delete(this.pictures.keys().next().value);
  }

  thumbnail(at) {
    return `${this.data.base}pictures/${this.ids[at]}/thumbnail.webp`;
  }

  // The names of the largest groups that do not cover each other.
  placeLabels() {
    const boxes = [];
    this.data.groups.forEach((group, number) => {
      const label = this.labels.children[number];
      const x = (group.x - this.x) * this.scale;
      const y = (group.y - this.y) * this.scale;
      const half = (label.textContent.length * 7.5 + 22) / 2;
      const box = { left: x - half, right: x + half, top: y - 14, bottom: y + 14 };
      const fits = box.left > 2 && box.right < this.width - 2 && box.top > 48 && box.bottom < this.height - 4;
      const isFree = fits && !boxes.some((other) => box.left < other.right && box.right > other.left && box.top < other.bottom && box.bottom > other.top);
      label.hidden = !isFree;
      if (!isFree) return;
      boxes.push(box);
      label.style.transform = `translate(${x}px, ${y}px) translate(-50%, -50%)`;
    });
  }

  paintLasso(accent) {
    const points = this.lasso ?? this.outline?.map(([x, y]) => [(x - this.x) * this.scale, (y - this.y) * this.scale]);
    if (!points || points.length < 2) return;
    const { paper } = this;
    paper.beginPath();
    for (const [x, y] of points) paper.lineTo(x, y);
    paper.closePath();
    paper.globalAlpha = 0.12;
    paper.fillStyle = accent;
    paper.fill();
    paper.globalAlpha = 1;
    paper.lineWidth = 2;
    paper.strokeStyle = accent;
    paper.stroke();
  }

  // Pointing.

  setLasso(isLasso) {
    this.isLasso = isLasso;
    this.lassoButton.setAttribute("aria-pressed", String(isLasso));
    this.stage.classList.toggle("drawing", isLasso);
  }

  onDown(event) {
    if (event.button !== 0 || !this.count) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    this.hidePreview();
    this.hasMoved = false;
    if (this.pointers.size === 1 && (this.isLasso || event.shiftKey)) this.lasso = [[event.offsetX, event.offsetY]];
    else this.lasso = null; // a second finger means zooming
  }

  onMove(event) {
    const here = [event.offsetX, event.offsetY];
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType !== "touch") this.showPreview(...here);
      return;
    }
    if (Math.hypot(here[0] - before[0], here[1] - before[1]) < 3 && !this.hasMoved) return;
    this.hasMoved = true;
    if (this.lasso) {
      this.lasso.push(here);
      this.pointers.set(event.pointerId, here);
      this.schedule();
      return;
    }
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const distance = (one) => Math.max(Math.hypot(one[0] - other[0], one[1] - other[1]), 1);
      this.zoom(distance(here) / distance(before), (here[0] + other[0]) / 2, (here[1] + other[1]) / 2);
    } else this.move(here[0] - before[0], here[1] - before[1]);
    this.pointers.set(event.pointerId, here);
  }

  onUp(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.lasso) {
      const drawn = this.lasso;
      this.lasso = null;
      if (drawn.length > 2) {
        this.setLasso(false);
        this.choosePolygon(drawn.map(([x, y]) => [x / this.scale + this.x, y / this.scale + this.y]));
      } else this.schedule();
    } else if (!this.hasMoved && !this.pointers.size) {
      const at = this.pointAt(event.offsetX, event.offsetY);
      if (at !== null) this.trigger("open", { id: this.ids[at], at: Date.now() });
    }
  }

  onCancel(event) {
    this.pointers.delete(event.pointerId);
    this.lasso = null;
    this.schedule();
  }

  onWheel(event) {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0022)), event.offsetX, event.offsetY);
  }

  pointAt(x, y) {
    for (const { at, left, top, right, bottom } of this.shown ?? []) if (x >= left && x <= right && y >= top && y <= bottom) return at;
    const [mapX, mapY, reach] = [x / this.scale + this.x, y / this.scale + this.y, REACH / this.scale];
    let best = null;
    let nearest = reach ** 2;
    for (const at of this.near(mapX - reach, mapY - reach, mapX + reach, mapY + reach)) {
      const distance = (this.places[2 * at] - mapX) ** 2 + (this.places[2 * at + 1] - mapY) ** 2;
      if (distance <= nearest) [best, nearest] = [at, distance];
    }
    return best;
  }

  showPreview(x, y) {
    if (!this.count) return;
    const at = this.pointAt(x, y);
    this.canvas.classList.toggle("over", at !== null && !this.isLasso);
    if (at === null) return this.hidePreview();
    if (this.previewed !== at) {
      this.previewed = at;
      this.preview.src = this.thumbnail(at);
    }
    this.preview.hidden = false;
    const left = x + 220 > this.width ? x - 212 : x + 16;
    this.preview.style.transform = `translate(${Math.max(left, 4)}px, ${Math.max(Math.min(y - 60, this.height - 208), 4)}px)`;
  }

  hidePreview() {
    this.preview.hidden = true;
    this.previewed = null;
  }

  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.count) return;
    const step = 80;
    const actions = {
      ArrowLeft: () => this.move(step, 0),
      ArrowRight: () => this.move(-step, 0),
      ArrowUp: () => this.move(0, step),
      ArrowDown: () => this.move(0, -step),
      "+": () => this.zoom(ZOOM_STEP),
      "=": () => this.zoom(ZOOM_STEP),
      "-": () => this.zoom(1 / ZOOM_STEP),
      0: () => this.fit(),
      l: () => this.setLasso(!this.isLasso),
      L: () => this.setLasso(!this.isLasso),
      Enter: () => this.chooseView(),
      Escape: () => (this.isLasso ? this.setLasso(false) : this.choose(null)),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    this.hidePreview();
    actions[event.key]();
  }

  // Choosing.

  chooseView() {
    if (!this.count) return;
    const [right, bottom] = [this.x + this.width / this.scale, this.y + this.height / this.scale];
    this.choosePolygon([[this.x, this.y], [right, this.y], [right, bottom], [this.x, bottom]]);
  }

  choosePolygon(points) {
    const last = this.data.extent - 1;
    const whole = points.map(([x, y]) => [Math.min(Math.max(Math.round(x), 0), last), Math.min(Math.max(Math.round(y), 0), last)]);
    this.choose(`p${encode(simplified(whole, MOST_VERTICES))}`);
  }

  choose(part, { isFar = false } = {}) {
    this.part = part;
    this.isIn = null;
    this.outline = null;
    const group = /^g(\d+)$/.exec(part ?? "");
    if (group) {
      this.isIn = Uint8Array.from(this.groupOf, (number) => Number(number === Number(group[1])));
    } else if (part) {
      this.outline = decode(part.slice(1));
      this.isIn = inside(this.outline, this.places, this.count);
    }
    const count = this.isIn ? this.isIn.reduce((sum, value) => sum + value, 0) : 0;
    this.bar.hidden = !part;
    const name = group ? `${this.data.groups[Number(group[1])]?.name}: ` : "";
    this.told.textContent = part ? `${name}${count.toLocaleString()} picture${count === 1 ? "" : "s"}` : "";
    this.go.disabled = !count;
    if (isFar && count) {
      const bounds = { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity };
      for (let at = 0; at < this.count; at++) {
        if (!this.isIn[at]) continue;
        bounds.left = Math.min(bounds.left, this.places[2 * at]);
        bounds.right = Math.max(bounds.right, this.places[2 * at]);
        bounds.top = Math.min(bounds.top, this.places[2 * at + 1]);
        bounds.bottom = Math.max(bounds.bottom, this.places[2 * at + 1]);
      }
      this.fit(bounds, 90);
    }
    this.schedule();
  }

  open() {
    this.trigger("open", { within: `${this.data.name}.${this.part}`, at: Date.now() });
  }

  listGroups() {
    this.heading.hidden = !this.data.groups.length;
    this.palette = null;
    this.labels.replaceChildren(
      ...this.data.groups.map(({ name }, number) => make("button", { type: "button", tabindex: "-1", hidden: true, text: name, onclick: () => this.choose(`g${number}`) })),
    );
    this.groups.replaceChildren(
      ...this.data.groups.map(({ name, words, count, cover, address }, number) => {
        const picture = make("img", { src: `${this.data.base}pictures/${cover}/thumbnail.webp`, alt: "", loading: "lazy", decoding: "async" });
        const told = `${count.toLocaleString()} picture${count === 1 ? "" : "s"}`;
        const link = make(
          "a",
          { href: this.data.base + address },
          picture,
          make("span", { class: "name", text: name }),
          make("small", { text: words.length ? `${told} · ${words.join(", ")}` : told }),
        );
        link.addEventListener("click", (event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return; // a tab of its own
          event.preventDefault();
          this.trigger("open", { within: `${this.data.name}.g${number}`, at: Date.now() });
        });
        return make("li", {}, link);
      }),
    );
  }
}

function luminance(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function fromHue(hue, saturation, lightness) {
  const chroma = saturation * Math.min(lightness, 1 - lightness);
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (lightness - chroma * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

// Which points lie within a polygon, by the even-odd rule, exactly as the server decides it.
function inside(polygon, places, count) {
  const found = new Uint8Array(count);
  const edges = polygon.map((from, at) => [...from, ...polygon[(at + 1) % polygon.length]]).filter(([, y1, , y2]) => y1 !== y2);
  for (let at = 0; at < count; at++) {
    const x = places[2 * at];
    const y = places[2 * at + 1];
    let isIn = 0;
    for (const [x1, y1, x2, y2] of edges) if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) isIn ^= 1;
    found[at] = isIn;
  }
  return found;
}

// Douglas and Peucker (1973), coarser until few enough vertices are left.
function simplified(points, most) {
  for (let tolerance = 2; ; tolerance *= 1.6) {
    const middle = points.length >> 1; // a closed line has no ends: it is cut in two
    const kept = [...between(points.slice(0, middle + 1), tolerance).slice(0, -1), ...between(points.slice(middle), tolerance)];
    if (kept.length <= most) return kept.length >= 3 ? kept : points.slice(0, 3);
  }
}

function between(points, tolerance) {
  if (points.length < 3) return points;
  const [[x1, y1], [x2, y2]] = [points[0], points[points.length - 1]];
  const length = Math.hypot(x2 - x1, y2 - y1);
  let farthest = 0;
  let split = 0;
  for (let at = 1; at < points.length - 1; at++) {
    const [x, y] = points[at];
    const distance = length ? Math.abs((x2 - x1) * (y1 - y) - (x1 - x) * (y2 - y1)) / length : Math.hypot(x - x1, y - y1);
    if (distance > farthest) [farthest, split] = [distance, at];
  }
  if (farthest <= tolerance) return [points[0], points[points.length - 1]];
  return [...between(points.slice(0, split + 1), tolerance).slice(0, -1), ...between(points.slice(split), tolerance)];
}

// Three bytes a vertex, in the Base64 for addresses.
function encode(points) {
  const bytes = points.flatMap(([x, y]) => [x >> 4, ((x & 15) << 4) | (y >> 8), y & 255]);
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_");
}

function decode(text) {
  let bytes;
  try {
    bytes = [...atob(text.replaceAll("-", "+").replaceAll("_", "/"))].map((letter) => letter.charCodeAt(0));
  } catch {
    return [];
  }
  const points = [];
  for (let at = 0; at + 2 < bytes.length; at += 3) points.push([(bytes[at] << 4) | (bytes[at + 1] >> 4), ((bytes[at + 1] & 15) << 8) | bytes[at + 2]]);
  return points;
}
