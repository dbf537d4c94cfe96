// The result grid and the one-image view.
//
// Ten thousand hits arrive as a few columns of numbers and names; only the rows near the window exist in the
// page. Nothing that came from a file is ever parsed as HTML: text goes in through textContent and attributes.

const GAP = 8;
const CAPTION_HEIGHT = 22;
const HEADER_HEIGHT = 44;
const REGION_DEGREES = 14; // of latitude: a country and its neighbours
const MARGIN_SCREENS = 1; // rows this many windows above and below are kept, so that scrolling shows no holes

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".results");
  root.imago ??= new Results(root);
  root.imago.update(data, setTriggerValue);
  return () => root.imago.destroy();
}

class Results {
  constructor(root) {
    this.root = root;
    this.list = make("ul", { class: "rows", role: "list" });
    this.titles = make("div", { class: "titles" });
    root.append(this.titles, this.list);
    this.tiles = new Map(); // index -> element, only those that are in the page
    this.boxes = [];
    this.focused = 0;
    this.askedFor = -1;
    this.viewer = new Viewer(this);
    this.scroller = scrollParent(root);
    this.onScroll = () => this.schedule();
    this.scroller.addEventListener("scroll", this.onScroll, { passive: true });
    this.resizing = new ResizeObserver(() => this.relayout());
    this.resizing.observe(root);
    this.list.addEventListener("keydown", (event) => this.onKey(event));
    this.onDocumentKey = (event) => this.onStrayKey(event);
    document.addEventListener("keydown", this.onDocumentKey);
    this.onHistory = () => this.followAddress();
    window.addEventListener("popstate", this.onHistory);
  }

  destroy() {
    this.scroller.removeEventListener("scroll", this.onScroll);
    document.removeEventListener("keydown", this.onDocumentKey);
    window.removeEventListener("popstate", this.onHistory);
    this.resizing.disconnect();
    this.viewer.dismiss();
    this.root.replaceChildren();
    delete this.root.imago;
  }

  update(data, trigger) {
    this.trigger = trigger;
    const isOther = !this.data || this.data.token !== data.token;
    this.data = data;
    this.list.setAttribute("aria-label", data.label);
    if (isOther) {
      this.focused = 0;
      this.askedFor = -1;
      if (this.hasShown) this.scroller.scrollTo({ top: 0 });
      this.hasShown = true;
    }
    // More hits of the same query leave those that are shown, and the focus, where they are.
    const hadFocus = this.list.contains(this.list.getRootNode().activeElement);
    for (const [index, tile] of this.tiles) {
      if (!isOther && tile.dataset.shows === this.identity(index)) {
        tile.setAttribute("aria-setsize", this.setSize);
        continue;
      }
      tile.remove();
      this.tiles.delete(index);
    }
    this.relayout();
    if (hadFocus && !isOther && this.focused < this.length) this.tile(this.focused).querySelector("button").focus({ preventScroll: true });
    this.followAddress();
  }

  get length() {
    return this.data.ids.length;
  }

  get setSize() {
    return String(this.data.has_more ? -1 : this.length);
  }

  // Two places of the grid that look the same have the same.
  identity(index) {
    const d = this.data;
    return [d.ids[index], d.folded[index], d.tips[index], d.marks?.[index]].join("|");
  }

  hit(index) {
    const d = this.data;
    const base = `pictures/${d.ids[index]}/${d.hashes[index]}`;
    return {
      id: d.ids[index],
      name: d.names[index],
      folder: d.folders[d.folder[index]],
      share: d.shares[index],
      tip: d.tips[index],
      copies: d.folded[index],
      mark: d.marks?.[index] ?? "",
      thumbnail: `${d.base}${base}/thumbnail.webp`,
      view: `${d.base}${base}/view.jpg`,
      original: `${d.base}${base}/original`,
      details: `${d.base}${base}/details.json`,
    };
  }

  // Rows of equal height that fill the width; the last one keeps the height that was aimed at.
  relayout() {
    const width = this.root.clientWidth;
    if (!width || !this.data) return;
    const target = width < 500 ? 130 : width < 900 ? 170 : 210;
    const boxes = [];
    let row = [];
    let aspects = 0;
    let top = 0;
    const finish = (height) => {
      let left = 0;
      for (const [index, aspect] of row) {
        boxes[index] = { left, top, width: aspect * height, height };
        left += aspect * height + GAP;
      }
      top += height + CAPTION_HEIGHT + GAP;
      row = [];
      aspects = 0;
    };
    const starts = new Map((this.data.groups ?? []).map((group) => [group.start, group]));
    this.headers = [];
    for (let index = 0; index < this.length; index++) {
      const group = starts.get(index);
      if (group) {
        if (row.length) finish(Math.min(target, (width - GAP * (row.length - 1)) / aspects));
        this.headers.push({ top, title: group.title });
        top += HEADER_HEIGHT;
      }
      // Panoramas and till receipts are cropped a little rather than given a row of their own.
      const aspect = Math.min(Math.max(this.data.aspects[index] || 1, 0.5), 2.4);
      row.push([index, aspect]);
      aspects += aspect;
      const height = (width - GAP * (row.length - 1)) / aspects;
      if (height <= target) finish(height);
    }
    if (row.length) finish(Math.min(target, (width - GAP * (row.length - 1)) / aspects));
    this.boxes = boxes;
    this.list.style.height = `${top}px`;
    this.titles.replaceChildren(
      ...this.headers.map((header) => {
        const title = make("h2", { text: header.title });
        title.style.transform = `translateY(${header.top}px)`;
        return title;
      }),
    );
    for (const [index, tile] of this.tiles) this.place(tile, index);
    this.show();
  }

  schedule() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.show();
    });
  }

  show() {
    if (!this.boxes.length) return;
    const view = this.scroller === window ? { top: 0 } : this.scroller.getBoundingClientRect();
    const start = view.top - this.root.getBoundingClientRect().top;
    const screen = window.innerHeight;
    const from = start - MARGIN_SCREENS * screen;
    const to = start + (1 + MARGIN_SCREENS) * screen;
    const first = this.firstBelow(from);
    const wanted = new Set([this.focused]); // the focus may be scrolled out of sight and must not be lost
    for (let index = first; index < this.length && this.boxes[index].top < to; index++) wanted.add(index);
    for (const [index, tile] of this.tiles) {
      if (!wanted.has(index)) {
        tile.remove();
        this.tiles.delete(index);
      }
    }
    for (const index of [...wanted].sort((a, b) => a - b)) if (index < this.length) this.tile(index);
    const last = this.boxes[this.length - 1];
    const isNearEnd = last.top + last.height < to + screen;
    if (isNearEnd && this.data.has_more && this.askedFor !== this.length) {
      this.askedFor = this.length;
      this.trigger("more", this.length);
    }
  }

  firstBelow(y) {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.boxes[middle].top + this.boxes[middle].height + CAPTION_HEIGHT < y) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  tile(index) {
    const there = this.tiles.get(index);
    if (there) return there;
    const hit = this.hit(index);
    const described = [hit.name, hit.mark, hit.tip, hit.copies ? `${hit.copies} more like it` : ""].filter(Boolean);
    const picture = make("img", { src: hit.thumbnail, alt: "", loading: "lazy", decoding: "async", draggable: "false" });
    picture.addEventListener("error", () => picture.classList.add("missing"));
    const button = make(
      "button",
      {
        class: "tile",
        type: "button",
        "aria-label": described.join(", "),
        title: `${hit.folder}${hit.name}`,
        tabindex: index === this.focused ? "0" : "-1",
        onclick: () => this.viewer.open(index),
        onfocus: () => this.remember(index),
      },
      picture,
    );
    if (hit.copies) button.append(make("span", { class: "badge", text: `+${hit.copies}`, "aria-hidden": "true" }));
    if (hit.mark) button.append(make("span", { class: "mark", text: hit.mark, "aria-hidden": "true" }));
    const caption = make("div", { class: "caption", "aria-hidden": "true" }, make("span", { class: "name", text: hit.name }));
    if (hit.share !== null) {
      const bar = make("span", { class: "bar", title: hit.tip });
      bar.style.setProperty("--share", hit.share);
      caption.append(bar);
    }
    const item = make(
      "li",
      { "aria-setsize": this.setSize, "aria-posinset": index + 1, "data-shows": this.identity(index) },
      button,
      caption,
    );
    this.place(item, index);
    this.tiles.set(index, item);
    const next = [...this.tiles.keys()].filter((other) => other > index).sort((a, b) => a - b)[0];
    this.list.insertBefore(item, next === undefined ? null : this.tiles.get(next));
    return item;
  }

  place(item, index) {
    const box = this.boxes[index];
    Object.assign(item.style, {
      transform: `translate(${box.left}px, ${box.top}px)`,
      width: `${box.width}px`,
      height: `${box.height + CAPTION_HEIGHT}px`,
    });
  }

  remember(index) {
    if (index === this.focused) return;
    this.tiles.get(this.focused)?.querySelector("button").setAttribute("tabindex", "-1");
    this.focused = index;
    this.tiles.get(index)?.querySelector("button").setAttribute("tabindex", "0");
  }

  focus(index) {
    if (index < 0 || index >= this.length) return;
    const previous = this.focused;
    this.remember(index);
    const item = this.tile(index);
    item.querySelector("button").setAttribute("tabindex", "0");
    item.querySelector("button").focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
    if (Math.abs(previous - index) > 1) this.schedule();
  }

  // The arrow keys move as the eye does: left and right along the rows, up and down to what lies above or below.
  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const here = this.focused;
    const moves = {
      ArrowLeft: () => here - 1,
      ArrowRight: () => here + 1,
      ArrowUp: () => this.neighbour(here, -1),
      ArrowDown: () => this.neighbour(here, +1),
      Home: () => 0,
      End: () => this.length - 1,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.focus(moves[event.key]());
  }

  neighbour(index, direction) {
    const box = this.boxes[index];
    const middle = box.left + box.width / 2;
    let other = index;
    while (this.boxes[other] && this.boxes[other].top === box.top) other += direction;
    if (!this.boxes[other]) return index;
    const row = this.boxes[other].top;
    let best = other;
    const distance = (at) => Math.abs(this.boxes[at].left + this.boxes[at].width / 2 - middle);
    for (; this.boxes[other] && this.boxes[other].top === row; other += direction) {
      if (distance(other) < distance(best)) best = other;
    }
    return best;
  }

  // With the focus nowhere, an arrow key goes into the grid.
  onStrayKey(event) {
    if (event.key !== "ArrowDown" && event.key !== "ArrowRight") return;
    if (this.viewer.isOpen || event.defaultPrevented || document.activeElement !== document.body) return;
    if (!this.length) return;
    event.preventDefault();
    this.focus(this.focused);
  }

  // The address says which picture is open (#image=42), so that back, forward and reload do what they should.
  followAddress() {
    const match = /^#image=(\d+)$/.exec(window.location.hash);
    const index = match ? this.data.ids.indexOf(Number(match[1])) : -1;
    if (index >= 0) this.viewer.open(index, { isInAddress: true });
    else if (this.viewer.isOpen) this.viewer.dismiss();
  }
}

class Viewer {
  constructor(results) {
    this.results = results;
    this.picture = make("img", { class: "large", alt: "" });
    this.heading = make("h2", { id: "imago-viewer-name" });
    this.counter = make("span", { class: "counter" });
    this.facts = make("dl");
    this.note = make("p", { class: "note", role: "status" });
    this.place = new PlaceMap();
    const icon = (name, label, action, extra = {}) =>
      make("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick: action, ...extra }, glyph(name));
    this.previous = icon("previous", "Previous picture (left arrow)", () => this.step(-1), { class: "icon previous" });
    this.next = icon("next", "Next picture (right arrow)", () => this.step(+1), { class: "icon next" });
    const act = (name, label, kind) =>
      make("button", { type: "button", class: "action", onclick: () => this.act(kind) }, glyph(name), make("span", { text: label }));
    this.download = make("a", { class: "action", download: "" }, glyph("download"), make("span", { text: "Download" }));
    this.dialog = make(
      "dialog",
      { class: "viewer", "aria-labelledby": "imago-viewer-name" },
      make("div", { class: "stage" }, this.picture, this.previous, this.next),
      make(
        "section",
        { class: "about", "aria-label": "About this picture", tabindex: "0" },
        make("header", {}, this.counter, icon("close", "Close (Esc)", () => this.close(), { class: "icon close" })),
        this.heading,
        make(
          "div",
          { class: "actions" },
          act("more", "More like this", "more_like"),
          act("less", "Less like this", "less_like"),
          act("copies", "Find copies", "copies"),
          act("folder", "This folder only", "folder"),
          make("button", { type: "button", class: "action", onclick: () => this.copyPath() }, glyph("path"), make("span", { text: "Copy path" })),
          this.download,
        ),
        this.note,
        this.facts,
        this.place.root,
      ),
    );
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.close();
    });
    this.dialog.addEventListener("keydown", (event) => this.onKey(event));
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.close();
    });
    results.root.append(this.dialog);
  }

  get isOpen() {
    return this.dialog.open;
  }

  open(index, { isInAddress = false } = {}) {
    if (!isInAddress) {
      const address = `${window.location.pathname}${window.location.search}#image=${this.results.hit(index).id}`;
      if (this.isOpen) window.history.replaceState(window.history.state, "", address);
      else {
        window.history.pushState({ imagoViewer: true }, "", address);
        this.wasPushed = true;
      }
    }
    this.show(index);
    if (!this.isOpen) this.dialog.showModal();
  }

  close() {
    if (!this.isOpen) return;
    const { pathname, search } = window.location;
    if (this.wasPushed) window.history.back();
    else window.history.replaceState(window.history.state, "", pathname + search);
    this.dismiss();
  }

  dismiss() {
    this.wasPushed = false;
    if (!this.isOpen) return;
    this.dialog.close();
    this.results.focus(this.index);
  }

  step(by) {
    const index = this.index + by;
    if (index < 0 || index >= this.results.length) return;
    this.open(index);
    if (index + 1 >= this.results.length && this.results.data.has_more) this.results.trigger("more", this.results.length);
  }

  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const step = { ArrowLeft: -1, ArrowRight: +1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.step(step);
  }

  show(index) {
    this.index = index;
    const hit = this.results.hit(index);
    this.hit = hit;
    this.heading.textContent = hit.name;
    this.counter.textContent = `${(index + 1).toLocaleString()} of ${this.results.length.toLocaleString()}${this.results.data.has_more ? "+" : ""}`;
    this.note.textContent = "";
    this.previous.disabled = index === 0;
    this.next.disabled = index + 1 >= this.results.length;
    this.picture.alt = hit.name;
    // The thumbnail is there at once; the large picture takes its place when it has arrived.
    this.picture.src = hit.thumbnail;
    const large = new Image();
    large.onload = () => this.hit === hit && (this.picture.src = hit.view);
    large.onerror = () => this.hit === hit && (this.note.textContent = "The file cannot be read now; this is its thumbnail.");
    large.src = hit.view;
    if (index + 1 < this.results.length) new Image().src = this.results.hit(index + 1).view;
    this.download.href = hit.original;
    this.download.setAttribute("download", hit.name);
    this.path = hit.folder + hit.name;
    this.place.show(null);
    this.facts.replaceChildren(...fact("Folder", hit.folder), ...(hit.tip ? fact("Match", hit.tip) : []));
    this.tellMore(hit);
  }

  async tellMore(hit) {
    let details;
    try {
      const response = await fetch(hit.details);
      if (!response.ok) return;
      details = await response.json();
    } catch {
      return; // the picture can be looked at without
    }
    if (this.hit !== hit) return;
    this.path = details.path;
    this.place.show(details.place, this.results.data.base);
    for (const { label, value, query } of details.facts) this.facts.append(...fact(label, value, query && (() => this.search(query))));
  }

  search(query) {
    this.leave();
    this.results.trigger("act", { kind: "query", query, at: Date.now() });
  }

  act(kind) {
    const { id, folder } = this.hit;
    this.leave();
    this.results.trigger("act", { kind, id, folder, at: Date.now() });
  }

  // What follows is another page of its own: the step back must lead to this picture's results.
  leave() {
    const { pathname, search } = window.location;
    window.history.replaceState(window.history.state, "", pathname + search);
    this.wasPushed = false;
    this.dismiss();
  }

  async copyPath() {
    try {
      await navigator.clipboard.writeText(this.path);
      this.note.textContent = "The path is copied.";
    } catch {
      this.note.textContent = `The browser did not allow it; the path is ${this.path}`;
    }
  }
}

// Where a picture was taken: an outline of the world that came with Imago, so that nobody is asked for a map.
class PlaceMap {
  constructor() {
    this.svg = element("svg", { class: "world", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.marker = make("span", { class: "marker" });
    this.wider = make("button", { type: "button", class: "link", onclick: () => this.look(!this.isWide) });
    this.elsewhere = make("a", { class: "link", target: "_blank", rel: "noopener noreferrer", text: "Open in OpenStreetMap" });
    this.root = make(
      "div",
      { class: "place", hidden: true },
      make("div", { class: "frame" }, this.svg, this.marker),
      make("div", { class: "under" }, this.wider, this.elsewhere),
      make("p", { class: "leaves", text: "That leaves this machine: the place is told to openstreetmap.org." }),
    );
  }

  async show(place, base) {
    this.at = place;
    this.root.hidden = true;
    if (!place) return;
    let world;
    try {
      PlaceMap.world ??= fetch(`${base}world.json`).then((response) => response.json());
      world = await PlaceMap.world;
    } catch {
      PlaceMap.world = null; // without a map; the place stands among the facts
      return;
    }
    if (this.at !== place) return;
    this.units = world.units;
    if (!this.svg.childNodes.length) this.svg.append(element("path", { class: "land", d: world.land }), element("path", { class: "borders", d: world.borders }));
    const [latitude, longitude] = [place.latitude.toFixed(5), place.longitude.toFixed(5)];
    this.elsewhere.href = `https://www.openstreetmap.org/?mlat=${latitude}&mlon=${longitude}#map=13/${latitude}/${longitude}`;
    this.root.hidden = false;
    this.look(false);
  }

  look(isWide) {
    this.isWide = isWide;
    this.wider.textContent = isWide ? "Closer" : "Whole world";
    const { latitude, longitude } = this.at;
    // A degree across is shorter the nearer to a pole; near the poles themselves no plane map is right.
    const shrunk = Math.max(Math.cos((latitude * Math.PI) / 180), 0.15);
    const height = isWide ? 180 : REGION_DEGREES;
    const width = isWide ? 360 : Math.min((2 * REGION_DEGREES) / shrunk, 360);
    const left = Math.min(Math.max(longitude - width / 2, -180), 180 - width);
    const top = Math.min(Math.max(90 - latitude - height / 2, 0), 180 - height);
    this.svg.setAttribute("viewBox", [left + 180, top, width, height].map((degrees) => (degrees * this.units).toFixed(0)).join(" "));
    this.marker.style.left = `${((longitude - left) / width) * 100}%`;
    this.marker.style.top = `${((90 - latitude - top) / height) * 100}%`;
  }
}

function element(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function fact(label, value, action) {
  const content = action ? make("button", { type: "button", class: "link", text: value, onclick: action }) : document.createTextNode(value);
  return [make("dt", { text: label }), make("dd", {}, content)];
}

const GLYPHS = {
  previous: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
  close: "M6 6l12 12M18 6L6 18",
  more: "M12 5v14M5 12h14",
  less: "M5 12h14",
  copies: "M8 8h11v11H8zM5 16V5h11",
  folder: "M3 7h6l2 2h10v10H3z",
  path: "M10 14a4 4 0 0 0 6 0l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6 0l-3 3a4 4 0 0 0 6 6l1-1",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
};

const glyph = (name) => drawing(GLYPHS[name]);
