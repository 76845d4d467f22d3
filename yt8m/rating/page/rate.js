"use strict";
// Gets a question from the server, loops its segment, and sends the answer. `RatingWindows` in windows.py makes the
// server's replies.

const element = (id) => document.getElementById(id);
const film = element("film");
const windowName = crypto.randomUUID(); // new after each reload: a duplicated tab is another window
const GONE = "The rating command has ended; no answer is lost. Start it again and open the address that it prints.";
const WAIT = 5000; // milliseconds between checks for questions that other windows have left

let state = null; // the server's last answer
let ready = false; // whether the segment in question is on screen
let busy = false;
let sound = true;
let paused = false;
let loaded = -1; // number of the film in the player

async function post(action, values = {}) {
  if (busy) return;
  busy = true;
  update();
  try {
    const reply = await fetch(action, {
      method: "POST",
      headers: {"Content-Type": "application/json"},
      body: JSON.stringify({window: windowName, ...values}),
    });
    const said = await reply.json();
    if (said.error) fail(said.error);
    else show(said);
  } catch (error) {
    if (error instanceof TypeError || error instanceof SyntaxError) fail(GONE); // no connection, or an empty answer
    else throw error;
  } finally {
    busy = false;
    update();
  }
}

function fail(text) {
  element("problem").textContent = text;
  element("problem").hidden = false;
}

function clock(seconds) {
  const parts = [Math.floor(seconds / 60), seconds % 60];
  if (parts[0] >= 60) parts.splice(0, 1, Math.floor(parts[0] / 60), parts[0] % 60);
  return parts.map((part, place) => place ? String(part).padStart(2, "0") : part).join(":");
}

function show(answer) {
  const before = state?.question;
  state = answer;
  element("problem").hidden = true;
  document.title = element("title").textContent = `Rating segments: ${state.title}`;
  element("rated").textContent = state.rated;
  element("skipped").textContent = state.skipped ? `, ${state.skipped} skipped` : "";
  element("file").textContent = state.file;
  element("command").textContent = state.command;
  element("least").textContent = element("least-no").textContent = state.least;
  showProgress();
  showUnplayable();
  const question = state.question;
  element("asking").hidden = !question;
  element("end").hidden = Boolean(question);
  if (question) {
    element("class").textContent = question.class;
    element("where").textContent = `${question.name}, ${clock(question.start)} to ${clock(question.end)}`;
    const same = before && before.film === question.film && before.start === question.start;
    if (!same || loaded !== question.film) play(question);
  } else {
    film.pause();
    showEnd();
  }
}

function showEnd() {
  element("end-title").textContent = state.others ? "The last questions are open in other windows" : "Nothing is left to rate";
  let text = "All questions are answered. The command to train a model is below.";
  if (state.skipped) text = `${state.skipped} skipped; start the command again to be asked those again.`;
  if (state.others) text = "Any that they leave unanswered will appear here.";
  element("end-text").textContent = text;
  if (state.others) setTimeout(() => { if (!state.question) post("ask"); }, WAIT);
}

function showProgress() {
  element("progress").querySelector("ul").replaceChildren(...state.classes.map((row) => {
    const item = document.createElement("li");
    item.classList.toggle("asked", row.class === state.question?.class);
    const [name, counts, bar] = ["name", "counts", "bar"].map((kind) => {
      const part = document.createElement("div");
      part.className = kind;
      item.append(part);
      return part;
    });
    name.textContent = row.class;
    counts.textContent = `${row.yes} yes, ${row.no} no, ${row.open} left`;
    for (const kind of ["yes", "no"]) {
      const part = document.createElement("div");
      part.className = kind;
      part.style.width = `${100 * row[kind] / Math.max(1, row.yes + row.no)}%`;
      bar.append(part);
    }
    return item;
  }));
}

function showUnplayable() {
  element("unplayable").hidden = !state.unplayable.length;
  element("unplayable").querySelector("ul").replaceChildren(...state.unplayable.map((row) => {
    const item = document.createElement("li");
    const command = document.createElement("pre");
    command.textContent = row.command;
    command.tabIndex = 0;
    item.append(row.name, command);
    return item;
  }));
}

// --- the player ----------------------------------------------------------------------------------------

function play(question) {
  ready = false;
  if (loaded !== question.film) {
    loaded = question.film;
    film.src = `film/${question.film}`;
  } else if (film.readyState >= film.HAVE_METADATA) {
    begin();
  }
}

// The player's times of a question's segment, second 0 of which is the film's first frame.
function segment(question) {
  return {from: question.begins + question.start, to: question.begins + question.end};
}

function begin() {
  film.currentTime = segment(state.question).from;
  setPaused(false);
}

async function start() {
  film.muted = !sound;
  try {
    await film.play();
  } catch (error) {
    if (error.name !== "NotAllowedError") return; // interrupted by another film or a pause
    film.muted = true; // browsers play no sound before the first key or click
    film.play().catch(() => {});
  }
}

function setPaused(value) {
  paused = value;
  if (paused) film.pause();
  else start();
  update();
}

function unplayable() {
  if (!state?.question || loaded !== state.question.film) return;
  loaded = -1;
  film.removeAttribute("src");
  post("unplayable", {question: state.question.number});
}

film.addEventListener("loadedmetadata", () => {
  if (!state?.question) return;
  if (film.videoWidth) begin();
  else unplayable(); // sound without pictures
});
film.addEventListener("error", () => { if (film.hasAttribute("src")) unplayable(); });
film.addEventListener("seeked", () => {
  ready = true;
  update();
});

function loop() {
  const question = state?.question;
  if (question && loaded === question.film && ready && !film.seeking) {
    const {from, to} = segment(question);
    if (film.currentTime >= to || film.ended || film.currentTime < from - 0.5) {
      film.currentTime = from;
      if (!paused) start();
    }
  }
}
film.addEventListener("timeupdate", loop); // rare, but also sent while nothing is drawn
film.addEventListener("ended", loop);
(function draw() {
  loop();
  const {from, to} = state?.question ? segment(state.question) : {from: 0, to: 1};
  const share = Math.min(Math.max((film.currentTime - from) / (to - from), 0), 1);
  element("played").style.width = `${ready ? 100 * share : 0}%`;
  requestAnimationFrame(draw);
})();

// --- keys and buttons ----------------------------------------------------------------------------------

const ACTIONS = {
  y: () => answer(true),
  n: () => answer(false),
  s: () => { if (state?.question) post("skip", {question: state.question.number}); },
  u: () => { if (state?.undo) post("undo"); },
  m: () => {
    sound = !sound;
    film.muted = !sound;
    update();
  },
  p: () => { if (state?.question) setPaused(!paused); },
};
const BUTTONS = {yes: "y", no: "n", skip: "s", undo: "u", sound: "m", pause: "p"};

function answer(yes) {
  if (state?.question && ready) post("answer", {question: state.question.number, yes});
}

function update() {
  const disabled = {yes: !ready, no: !ready, skip: !state?.question, undo: !state?.undo, pause: !state?.question};
  for (const [id, value] of Object.entries(disabled)) element(id).setAttribute("aria-disabled", busy || value);
  element("sound").setAttribute("aria-pressed", sound);
  element("pause").setAttribute("aria-pressed", paused);
  document.documentElement.dataset.ready = Boolean(state) && !busy && (ready || !state.question);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const onButton = event.target.matches("button"); // which the space bar presses
  const action = ACTIONS[event.key === " " && !onButton ? "p" : event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  if (film.muted && sound) film.muted = false;
  action();
});
for (const [id, key] of Object.entries(BUTTONS)) {
  element(id).addEventListener("click", () => {
    if (film.muted && sound) film.muted = false;
    ACTIONS[key]();
  });
}
window.addEventListener("pagehide", () => {
  navigator.sendBeacon("leave", new Blob([JSON.stringify({window: windowName})], {type: "application/json"}));
});
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

post("ask");
