// The search field: words, suggestions, and pictures that are chosen, pasted or dropped.
//
// What was typed goes to the page as one query text; a picture is sent to the server first and stands in that
// text as upload:NAME. The last queries are remembered by this browser alone.

const RECENT_KEY = "imago-recent";
const RECENT_COUNT = 8;
const SUGGESTIONS = 8;

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".search_bar");
  root.imago ??= new SearchBar(root);
  root.imago.update(data, setTriggerValue);
  return () => root.imago.destroy();
}

class SearchBar {
  constructor(root) {
    this.root = root;
    this.input = make("input", {
      type: "text",
      role: "combobox",
      "aria-label": "Search your pictures",
      "aria-expanded": "false",
      "aria-controls": "imago-suggestions",
      "aria-autocomplete": "list",
      "aria-describedby": "imago-problem",
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: "false",
      enterkeyhint: "search",
    });
    this.clear = this.button("Clear", "M6 6l12 12M18 6L6 18", () => this.empty());
    this.file = make("input", { type: "file", accept: "image/*,.heic,.heif,.avif", hidden: true, tabindex: "-1", "aria-label": "Search by a picture" });
    this.pick = this.button("Search by a picture", "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01", () => this.file.click());
    this.list = make("ul", { id: "imago-suggestions", role: "listbox", "aria-label": "Suggestions", hidden: true });
    this.pictures = make("div", { class: "pictures" });
    this.problem = make("p", { id: "imago-problem", class: "problem", role: "alert" });
    this.form = make(
      "form",
      { role: "search", class: "field", novalidate: true },
      drawing("M10.5 4a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13zM15.5 15.5L20 20", "lens"),
      this.pictures,
      this.input,
      this.clear,
      this.pick,
      this.file,
      make("button", { type: "submit", class: "go", text: "Search" }),
    );
    root.append(this.form, this.list, this.problem);
    this.drop = make("div", { class: "drop", text: "Drop the picture to search by it", hidden: true });
    root.append(this.drop);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.input.addEventListener("input", () => this.suggest());
    this.input.addEventListener("focus", () => this.suggest());
    this.input.addEventListener("blur", () => this.hide());
    this.input.addEventListener("keydown", (event) => this.onKey(event));
    this.file.addEventListener("change", () => this.file.files.length && this.send(this.file.files[0]));
    this.listeners = {
      keydown: (event) => this.onDocumentKey(event),
      paste: (event) => this.onPaste(event),
      dragenter: (event) => this.onDrag(event, true),
      dragover: (event) => this.onDrag(event, true),
      dragleave: (event) => event.relatedTarget === null && this.onDrag(event, false),
      drop: (event) => this.onDrop(event),
    };
    for (const [name, listener] of Object.entries(this.listeners)) document.addEventListener(name, listener);
  }

  destroy() {
    for (const [name, listener] of Object.entries(this.listeners)) document.removeEventListener(name, listener);
    this.root.replaceChildren();
    delete this.root.imago;
  }

  button(label, path, action) {
    return make("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick: action }, drawing(path));
  }

  update(data, trigger) {
    this.trigger = trigger;
    const isOther = !this.data || this.data.query !== data.query;
    this.data = data;
    this.input.placeholder = data.placeholder;
    if (isOther) this.input.value = data.query;
    this.showProblem(data.problem);
    this.pictures.replaceChildren(
      ...data.uploads.map(({ name, thumbnail }) => make("img", { src: data.base + thumbnail, alt: `the picture ${name}`, title: `upload:${name}` })),
    );
    this.clear.hidden = !this.input.value;
    if (data.query && !data.problem) remember(data.query);
  }

  // An error shows the query with the part that it is about marked, right below the field.
  showProblem(problem) {
    this.problem.replaceChildren();
    this.input.setAttribute("aria-invalid", problem ? "true" : "false");
    if (!problem) return;
    this.problem.append(make("span", { text: problem.text }));
    if (problem.column === null || !problem.query) return;
    const letters = Array.from(problem.query);
    const end = problem.column + problem.length;
    this.problem.append(
      make(
        "code",
        {},
        letters.slice(0, problem.column).join(""),
        make("mark", { text: letters.slice(problem.column, end).join("") || " " }),
        letters.slice(end).join(""),
      ),
    );
  }

  submit(text = this.input.value) {
    this.hide();
    this.trigger("search", { query: text.trim(), at: Date.now() });
  }

  empty() {
    this.input.value = "";
    this.clear.hidden = true;
    this.input.focus();
    if (this.data.query) this.submit("");
  }

  // Suggestions: recent and saved queries for an empty field, else what the last word could become.

  suggest() {
    this.clear.hidden = !this.input.value;
    const text = this.input.value;
    const options = [];
    const word = /\S*$/.exec(text)[0];
    const before = text.slice(0, text.length - word.length);
    if (!text.trim()) {
      for (const query of recent()) options.push({ text: query, kind: "recent" });
    } else {
      const lower = text.toLowerCase();
      for (const query of recent()) if (query.toLowerCase().startsWith(lower) && query !== text) options.push({ text: query, kind: "recent" });
    }
    if (word || !text) {
      for (const { name, query } of this.data.saved)
        if (`@${name}`.startsWith(word) && `@${name}` !== word) options.push({ text: `${before}@${name}`, kind: query });
      for (const { start, hint } of this.data.filters)
        if (word && start.startsWith(word.toLowerCase()) && start !== word) options.push({ text: before + start, kind: hint, isOpen: start.endsWith(":") });
      for (const { text: value, hint } of this.valuesFor(word)) if (value !== word) options.push({ text: `${before}${value}`, kind: hint });
    }
    this.options = options.slice(0, SUGGESTIONS);
    this.active = -1;
    this.list.replaceChildren(
      ...this.options.map((option, index) => {
        const item = make(
          "li",
          { role: "option", id: `imago-option-${index}`, "aria-selected": "false" },
          make("span", { text: option.text }),
          make("small", { text: option.kind }),
        );
        item.addEventListener("mousedown", (event) => {
          event.preventDefault(); // keeps the focus in the field
          this.take(index);
        });
        return item;
      }),
    );
    this.list.hidden = !this.options.length || !this.hasFocus;
    this.input.setAttribute("aria-expanded", String(!this.list.hidden));
    this.input.removeAttribute("aria-activedescendant");
  }

  // Folders and cameras for "in:ro" and "camera:pix": the beginning of any of their words will do.
  valuesFor(word) {
    const [, filter, start] = /^([a-z]+:)"?(.*)$/i.exec(word) ?? [];
    if (!filter) return [];
    const wanted = start.toLowerCase();
    return this.data.values.filter(({ key }) => {
      if (!key.startsWith(filter.toLowerCase())) return false;
      const name = key.slice(filter.length);
      return name.startsWith(wanted) || name.split(/[^\p{L}\p{N}]+/u).some((part) => wanted && part.startsWith(wanted));
    });
  }

  get hasFocus() {
    return this.input.getRootNode().activeElement === this.input;
  }

  hide() {
    this.list.hidden = true;
    this.active = -1;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  point(index) {
    const items = this.list.children;
    if (this.active >= 0) items[this.active]?.setAttribute("aria-selected", "false");
    this.active = (index + items.length) % items.length;
    items[this.active].setAttribute("aria-selected", "true");
    items[this.active].scrollIntoView({ block: "nearest" });
    this.input.setAttribute("aria-activedescendant", `imago-option-${this.active}`);
  }

  take(index) {
    const option = this.options[index];
    this.input.value = option.text;
    if (option.isOpen) this.suggest();
    else this.submit();
  }

  onKey(event) {
    const isShown = !this.list.hidden;
    if (event.key === "ArrowDown" && isShown) {
      event.preventDefault();
      this.point(this.active + 1);
    } else if (event.key === "ArrowUp" && isShown) {
      event.preventDefault();
      this.point(this.active < 0 ? -1 : this.active - 1);
    } else if (event.key === "Enter" && isShown && this.active >= 0) {
      event.preventDefault();
      this.take(this.active);
    } else if (event.key === "Escape") {
      if (isShown) this.hide();
      else this.input.blur();
    }
  }

  onDocumentKey(event) {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
    if (document.querySelector("[role=dialog]") || openDialog(document)) return;
    event.preventDefault();
    this.input.focus();
    this.input.select();
  }

  // Pictures.

  onPaste(event) {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    this.send(file);
  }

  onDrag(event, isOver) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    this.drop.hidden = !isOver;
  }

  onDrop(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    this.drop.hidden = true;
    if (event.dataTransfer.files.length) this.send(event.dataTransfer.files[0]);
  }

  async send(file) {
    this.file.value = "";
    if (file.size > this.data.maximum_upload_bytes) {
      const limit = Math.floor(this.data.maximum_upload_bytes / 2 ** 20);
      this.showProblem({ text: `${file.name} is larger than the limit of ${limit} MiB: make it smaller first.`, column: null });
      return;
    }
    this.root.classList.add("busy");
    try {
      const response = await fetch(`${this.data.base}uploads`, { method: "POST", body: file, headers: { "X-Imago": "1" } });
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.detail);
      const others = this.input.value.replace(/(^|\s)upload:\S+/g, " ").trim();
      this.submit(others ? `${others} upload:${answer.name}` : `upload:${answer.name}`);
    } catch (error) {
      this.showProblem({ text: error instanceof TypeError ? "Imago does not answer: is it still running?" : error.message, column: null });
    } finally {
      this.root.classList.remove("busy");
    }
  }
}

function recent() {
  try {
    const kept = JSON.parse(window.localStorage.getItem(RECENT_KEY) ?? "[]");
    return Array.isArray(kept) ? kept.filter((query) => typeof query === "string") : [];
  } catch {
    return []; // storage may be switched off
  }
}

function remember(query) {
  if (/(^|\s)upload:/.test(query)) return; // gone when the server ends
  try {
    const others = recent().filter((other) => other !== query);
    window.localStorage.setItem(RECENT_KEY, JSON.stringify([query, ...others].slice(0, RECENT_COUNT)));
  } catch {
    // without memory then
  }
}

function isTyping(event) {
  const target = event.composedPath()[0];
  return target instanceof HTMLElement && (target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName));
}

function openDialog(root) {
  for (const element of root.querySelectorAll("*")) {
    if (element.tagName === "DIALOG" && element.open) return true;
    if (element.shadowRoot && openDialog(element.shadowRoot)) return true;
  }
  return false;
}
