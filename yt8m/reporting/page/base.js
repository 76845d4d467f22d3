// Shared by all pages.
const SEGMENT = 5; // seconds
const byId = (id) => document.getElementById(id);
const pageData = () => JSON.parse(byId("data").textContent);
// Two decimals, truncated so that 0.499 does not look like 0.5.
const digits = (probability) => (Math.floor(probability * 100 + 1e-9) / 100).toFixed(2);
const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

// Seconds as m:ss, or h:mm:ss from an hour on.
function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, two(whole % 60)];
  return hours ? `${hours}:${two(minutes)}:${rest}` : `${minutes}:${rest}`;
}

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  return made;
}

function drawing(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  return made;
}

// A list with a search box: `find(text)` returns the matches of the lower-case text as {key, title, detail}, in order;
// `choose(key)` is called for the clicked one.
const MOST_CHOICES = 50; // shown at a time
function createChooser(find, choose, noun) {
  const [box, list, more] = [byId("chooser-search"), byId("chooser-list"), byId("chooser-more")];
  let current = null;
  const mark = () => [...list.querySelectorAll("button")].forEach((button) => {
    button.setAttribute("aria-current", String(button.dataset.key === String(current)));
  });
  function fill() {
    const found = find(box.value.trim().toLowerCase());
    list.replaceChildren(...found.slice(0, MOST_CHOICES).map(({ key, title, detail }) => {
      const button = element("button", undefined, { type: "button", "data-key": key });
      button.append(element("span", title, { class: "title" }), element("span", detail, { class: "detail" }));
      button.addEventListener("click", () => choose(key));
      const item = element("li");
      item.append(button);
      return item;
    }));
    const left = found.length - MOST_CHOICES;
    more.textContent = found.length === 0 ? `No ${noun} found.`
      : left > 0 ? `${counted(found.length, noun)}; the first ${MOST_CHOICES} are shown.` : counted(found.length, noun);
    mark();
  }
  box.addEventListener("input", fill);
  return { fill, select: (key) => { current = key; mark(); } };
}
