// When the pictures were taken: bars by month, and a stretch of them to choose by dragging or with the keys.

const HEIGHT = 64;

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".dates");
  root.imago ??= new Dates(root);
  root.imago.update(data, setTriggerValue);
  return () => root.replaceChildren();
}

class Dates {
  constructor(root) {
    this.canvas = make("div", { class: "bars" });
    this.from = this.handle("From month");
    this.to = this.handle("To month");
    this.text = make("span", { class: "range" });
    this.all = make("button", { type: "button", text: "All dates", onclick: () => this.choose(0, this.months.length - 1) });
    root.append(this.canvas, make("div", { class: "sliders" }, this.from, this.to), make("div", { class: "line" }, this.text, this.all));
    this.canvas.addEventListener("pointerdown", (event) => this.drag(event));
  }

  handle(label) {
    const slider = make("input", { type: "range", "aria-label": label, min: "0", step: "1" });
    slider.addEventListener("input", () => this.paint());
    slider.addEventListener("change", () => this.choose(Number(this.from.value), Number(this.to.value)));
    return slider;
  }

  update(data, trigger) {
    this.trigger = trigger;
    this.months = data.months;
    this.counts = data.counts;
    const last = this.months.length - 1;
    for (const slider of [this.from, this.to]) slider.max = String(last);
    this.from.value = String(data.first);
    this.to.value = String(data.last);
    const most = Math.max(...this.counts, 1);
    this.canvas.replaceChildren(
      ...this.counts.map((count, index) => {
        const bar = make("span", { title: `${this.months[index]}: ${count.toLocaleString()}` });
        bar.style.height = `${count ? Math.max(2, (count / most) * HEIGHT) : 0}px`;
        return bar;
      }),
    );
    this.paint();
  }

  paint() {
    const [first, last] = [Number(this.from.value), Number(this.to.value)].sort((a, b) => a - b);
    [...this.canvas.children].forEach((bar, index) => bar.classList.toggle("out", index < first || index > last));
    this.from.setAttribute("aria-valuetext", this.months[this.from.value]);
    this.to.setAttribute("aria-valuetext", this.months[this.to.value]);
    this.text.textContent = first === last ? this.months[first] : `${this.months[first]} to ${this.months[last]}`;
    this.all.hidden = first === 0 && last === this.months.length - 1;
  }

  drag(down) {
    down.preventDefault();
    const box = this.canvas.getBoundingClientRect();
    const month = ({ clientX }) => {
      const share = Math.min(Math.max((clientX - box.left) / box.width, 0), 0.9999);
      return Math.floor(share * this.months.length);
    };
    const start = month(down);
    const move = (event) => {
      const here = month(event);
      this.from.value = String(Math.min(start, here));
      this.to.value = String(Math.max(start, here));
      this.paint();
    };
    move(down);
    const up = () => {
      window.removeEventListener("pointermove", move);
      this.choose(Number(this.from.value), Number(this.to.value));
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", up, { once: true });
  }

  choose(one, other) {
    const [first, last] = [one, other].sort((a, b) => a - b);
    this.from.value = String(first);
    this.to.value = String(last);
    this.paint();
    const isAll = first === 0 && last === this.months.length - 1;
    this.trigger("range", isAll ? { first: null, last: null } : { first: this.months[first], last: this.months[last] });
  }
}
