// A film's timeline, under a player. A film is {
//   name, seconds,
//   source: null, or { file, name, format, visual, begins, copy_begins, convert } (a relative address, the player's time at
//           second 0, of the film and of a copy that browsers play, and the command for the copy), or { youtube, embed }
//           (an id, and whether to embed the player),
//   rows: [{ name, start, values, spans, marks }], one per class: `values` are the probabilities of its segments from
//         second `start` on, or null; a span is { start, end, mean, highest, at, below, picture }, `below` if it does not
//         reach the threshold; a mark is { start, positive }, a rated segment }.
const HUES = [235, 50, 150, 320, 95, 280, 190, 20];
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200]; // seconds between ticks
const MOST_CARDS = 200;
const FURTHEST_ZOOM = 64;
const WATCH = "https://www.youtube.com/watch?v=";
const PLAYER = "https://www.youtube-nocookie.com";
const FROM_A_FILE = "This page was opened as a file. YouTube's player works only on a page from a web server, such as python -m http.server.";

// --- players: { seek(second), play(), pause(), time(), playing(), close() }; they call `moved` when the time changes ----

// Without a film, only the playhead moves.
function noPlayer(moved) {
  let at = 0;
  return { seek: (second) => { at = second; moved(); }, play() {}, pause() {}, time: () => at, playing: () => false, close() {} };
}

// `begins`: the player's time at second 0.
function filePlayer(stage, address, name, begins, moved, failed) {
  const video = element("video", undefined, { controls: "", playsinline: "", preload: "metadata", "aria-label": `Film ${name}` });
  let frame = 0;
  const follow = () => { moved(); frame = video.paused ? 0 : requestAnimationFrame(follow); };
  ["timeupdate", "seeking", "seeked", "pause"].forEach((event) => video.addEventListener(event, moved));
  video.addEventListener("playing", () => { if (!frame) follow(); });
  video.addEventListener("error", () => failed(true));
  video.addEventListener("loadedmetadata", () => { if (!video.videoWidth) failed(false); });
  video.src = address;
  stage.replaceChildren(video);
  return {
    seek: (second) => { video.currentTime = begins + second; },
    play: () => { video.play().catch(() => {}); }, // the error event reports failures
    pause: () => video.pause(),
    time: () => Math.max(video.currentTime - begins, 0),
    playing: () => !video.paused,
    close: () => { cancelAnimationFrame(frame); video.removeAttribute("src"); video.load(); },
  };
}

// YouTube's player in the page, controlled by messages.
function embeddedPlayer(stage, id, moved) {
  const frame = element("iframe", undefined, {
    src: `${PLAYER}/embed/${id}?enablejsapi=1&playsinline=1&rel=0&origin=${encodeURIComponent(location.origin)}`,
    title: `Film ${id} on YouTube`, allow: "autoplay; fullscreen; encrypted-media", referrerpolicy: "strict-origin-when-cross-origin",
  });
  let [at, playing] = [0, false];
  const tell = (message) => frame.contentWindow?.postMessage(JSON.stringify({ id: 1, channel: "widget", ...message }), PLAYER);
  const command = (func, ...args) => tell({ event: "command", func, args });
  const hear = (event) => {
    if (event.origin !== PLAYER || event.source !== frame.contentWindow) return;
    let info;
    try { ({ info } = JSON.parse(event.data)); } catch { return; }
    if (typeof info?.playerState === "number") playing = info.playerState === 1;
    if (typeof info?.currentTime === "number") at = info.currentTime;
    moved();
  };
  window.addEventListener("message", hear);
  frame.addEventListener("load", () => tell({ event: "listening" }));
  stage.replaceChildren(frame);
  return {
    seek: (second) => { at = second; command("seekTo", second, true); moved(); },
    play: () => command("playVideo"),
    pause: () => command("pauseVideo"),
    time: () => at,
    playing: () => playing,
    close: () => window.removeEventListener("message", hear),
  };
}

// A link that opens the film on YouTube at that second; `why` there is no player, or null.
function linkedPlayer(stage, id, moved, why) {
  const address = (second) => `${WATCH}${id}&t=${Math.floor(second)}s`;
  const link = element("a", undefined, { target: "_blank", rel: "noopener", style: "color: inherit" });
  const box = element("div", undefined, { class: "link" });
  box.append(link);
  if (why !== null) box.append(element("p", why));
  stage.replaceChildren(box);
  let at = 0;
  const show = () => { link.href = address(at); link.textContent = `Watch ${id} on YouTube from ${clock(at)}`; };
  show();
  return {
    seek: (second) => { at = second; show(); moved(); },
    play: () => window.open(address(at), "_blank", "noopener"),
    pause() {}, time: () => at, playing: () => false, close() {},
  };
}

// --- the viewer --------------------------------------------------------------------------------------------

// `everywhere`: whether keys work wherever the focus is, or only inside the viewer. Returns { show(film) }.
function createViewer(everywhere) {
  const viewer = byId("viewer");
  const [stage, timeline, lines, cards] = ["stage", "timeline", "lines", "cards"].map(byId);
  const playhead = element("div", undefined, { class: "playhead" });
  let film = null;
  let player = noPlayer(() => {});
  let rows = []; // with `line`, and spans with `row`, `bar` and `card`
  let sequence = []; // the spans of visible rows, by time
  let selected = null;
  let ownSeek = false;
  let zoom = 1;
  const chosen = new Set(); // numbers of rows

  const percent = (second) => `${(100 * second) / Math.max(film.seconds, 1)}%`;
  const words = (span) => `${span.row.name}, ${clock(span.start)} to ${clock(span.end)}, probability ${digits(span.mean)}`
    + `${span.end - span.start > SEGMENT ? `, highest ${digits(span.highest)} at ${clock(span.at)}` : ""}`
    + `${span.below ? ", below the threshold" : ""}`;

  // --- drawing ---

  function curve(row) {
    const svg = drawing("svg", { class: "curve", viewBox: `0 0 ${Math.max(film.seconds, 1)} 1`, preserveAspectRatio: "none", "aria-hidden": "true" });
    let way = `M${row.start} 1`;
    Array.from(row.values).forEach((value, place) => {
      const from = row.start + SEGMENT * place;
      way += `V${(1 - value).toFixed(3)}H${Math.min(from + SEGMENT, film.seconds)}`;
    });
    svg.append(drawing("path", { d: `${way}V1Z` }));
    return svg;
  }

  function makeBar(span) {
    const bar = element("button", undefined, {
      type: "button", class: `span${span.below ? " below" : ""}`, tabindex: "-1", "aria-label": words(span), title: words(span),
      style: `left:${percent(span.start)};width:${percent(span.end - span.start)}`,
    });
    const text = element("span", undefined, { class: "span-text" });
    text.append(element("span", digits(span.mean), { class: "probability" }), element("span", ` ${span.row.name}`, { class: "span-name" }));
    bar.append(text);
    bar.addEventListener("click", (event) => { event.stopPropagation(); playFrom(span); });
    return bar;
  }

  function makeCard(span) {
    const card = element("button", undefined, {
      type: "button", class: `card hue${span.below ? " below" : ""}`, style: `--hue:${span.row.hue}`, tabindex: "-1",
      "aria-label": words(span),
    });
    if (span.picture) card.append(element("img", undefined, { src: span.picture, alt: "", loading: "lazy" }));
    card.append(element("span", undefined, { class: "card-bar" }));
    const text = element("span", undefined, { class: "card-text" });
    text.append(element("b", span.row.name), element("span", `${clock(span.start)} – ${clock(span.end)}`, { class: "number" }),
      element("br"), element("span", `${span.below ? "only " : ""}${digits(span.mean)}`, { class: "number", title: "mean probability" }));
    card.append(text);
    card.addEventListener("click", () => playFrom(span));
    const item = element("li");
    item.append(card);
    return card;
  }

  function makeLine(row) {
    const line = element("div", undefined, { class: `line hue${row.marks.length ? " marked" : ""}`, style: `--hue:${row.hue}`, role: "group", "aria-label": row.name });
    const track = element("div", undefined, { class: "track" });
    const [from, to] = film.looked ?? [0, film.seconds];
    [[0, from], [to, film.seconds]].filter(([start, end]) => end > start).forEach(([start, end]) => {
      track.append(element("div", undefined, { class: "not-looked-at", title: "not looked at", style: `left:${percent(start)};width:${percent(end - start)}` }));
    });
    if (row.values) track.append(curve(row));
    row.spans.forEach((span) => track.append(span.bar));
    row.marks.forEach((mark) => track.append(markSign(mark.positive, percent(mark.start + SEGMENT / 2),
      `${clock(mark.start)}: rated as ${mark.positive ? "there" : "not there"}`)));
    track.addEventListener("click", seekTo);
    line.append(element("div", row.name, { class: "line-name", title: row.name }), track);
    return line;
  }

  function seekTo(event) {
    const box = event.currentTarget.getBoundingClientRect();
    select(null);
    player.seek((Math.max(0, event.clientX - box.left) / box.width) * film.seconds);
  }

  const axisTrack = element("div", undefined, { class: "track" });
  axisTrack.addEventListener("click", seekTo);
  const axis = element("div", undefined, { class: "line axis", "aria-hidden": "true" });
  axis.append(element("div", "", { class: "line-name" }), axisTrack);

  function drawTicks() {
    if (film === null) return;
    const width = axisTrack.getBoundingClientRect().width;
    const step = STEPS.find((own) => (own / Math.max(film.seconds, 1)) * width >= 64) ?? 14400;
    const ticks = [];
    for (let second = 0; second < film.seconds && (ticks.length === 0 || ((film.seconds - second) / film.seconds) * width > 36); second += step) {
      ticks.push(element("div", clock(second), { class: "tick number", style: `left:${percent(second)}` }));
    }
    axisTrack.replaceChildren(...ticks);
  }

  function setZoom(level) {
    zoom = Math.min(Math.max(level, 1), FURTHEST_ZOOM);
    lines.style.setProperty("--zoom", zoom);
    byId("zoom-out").disabled = zoom === 1;
    byId("zoom-in").disabled = zoom === FURTHEST_ZOOM;
    drawTicks();
    keepInView(player.time(), true);
  }

  function keepInView(second, centre = false) {
    if (zoom === 1) return;
    const label = axis.firstChild.getBoundingClientRect().width;
    const x = axisTrack.getBoundingClientRect().width * (second / film.seconds);
    const room = timeline.clientWidth - label;
    if (centre || x < timeline.scrollLeft || x > timeline.scrollLeft + room - 20) timeline.scrollLeft = x - (centre ? room / 2 : 20);
  }

  // --- time ---

  function moved() {
    if (film === null) return;
    const time = Math.min(player.time(), film.seconds);
    const share = film.seconds ? time / film.seconds : 0;
    playhead.style.left = `calc(var(--label) + (100% - var(--label)) * ${share})`;
    if (player.playing()) keepInView(time);
    const present = [];
    sequence.forEach((span) => {
      const isNow = span.start <= time && time < span.end;
      if (isNow !== span.isNow) setNow(span, isNow);
      if (isNow && !span.below) present.push(` · ${span.row.name} ${digits(probabilityAt(span, time))}`);
    });
    const text = ` of ${clock(film.seconds)}${present.join("")}`;
    const shown = byId("now");
    if (shown.textContent !== clock(time) + text) shown.replaceChildren(element("b", clock(time)), text);
  }

  function setNow(span, isNow) {
    span.isNow = isNow;
    [span.bar, span.card].forEach((own) => own?.classList.toggle("now", isNow));
  }

  function probabilityAt(span, time) {
    const value = span.row.values?.[Math.floor((time - span.row.start) / SEGMENT)];
    return value ?? span.mean;
  }

  // --- selection ---

  function select(span, focus = false) {
    const before = selected;
    const inCards = cards.contains(document.activeElement);
    selected = span;
    [before, span].forEach((own) => [own?.bar, own?.card].forEach((button) => {
      button?.classList.toggle("selected", own === span);
      button?.setAttribute("tabindex", own === span ? "0" : "-1");
    }));
    setEntrance();
    if (span === null) return;
    byId("said").textContent = words(span);
    if (focus) (inCards && span.card ? span.card : span.bar).focus({ preventScroll: true });
    span.card?.scrollIntoView({ block: "nearest" });
    if (!cards.contains(document.activeElement)) span.bar.scrollIntoView({ block: "nearest", inline: "nearest" });
    keepInView(span.start);
  }

  // One bar and one card are always reachable with Tab.
  function setEntrance() {
    const first = selected !== null && sequence.includes(selected) ? selected : sequence[0];
    sequence.forEach((span) => [span.bar, span.card].forEach((own) => own?.setAttribute("tabindex", span === first ? "0" : "-1")));
  }

  function goTo(span) {
    if (span === undefined) return;
    select(span, true);
    player.seek(span.start);
  }

  function playFrom(span) {
    select(span, true);
    player.seek(span.start);
    player.play();
  }

  function step(direction) {
    const place = selected === null ? -1 : sequence.indexOf(selected);
    if (place >= 0) {
      goTo(sequence[place + direction]);
      return;
    }
    const time = player.time();
    goTo(direction > 0 ? sequence.find((span) => span.start >= time) : sequence.findLast((span) => span.start < time));
  }

  // Go to the span nearest in time in the next row that has any.
  function stepRow(direction) {
    const time = selected?.start ?? player.time();
    const shown = rows.filter((row) => !row.line.hidden && row.spans.length);
    const at = selected === null ? -1 : shown.indexOf(selected.row);
    const row = selected === null ? shown[direction > 0 ? 0 : shown.length - 1] : shown[at + direction];
    if (row === undefined) return;
    goTo(row.spans.reduce((best, span) => (Math.abs(span.start - time) < Math.abs(best.start - time) ? span : best)));
  }

  // --- filter ---

  function filter() {
    const text = byId("class-search").value.trim().toLowerCase();
    rows.forEach((row, number) => {
      const fits = row.name.toLowerCase().includes(text);
      row.chip.hidden = !fits;
      row.line.hidden = !fits || (chosen.size > 0 && !chosen.has(number));
      row.chip.setAttribute("aria-pressed", String(chosen.has(number)));
    });
    byId("no-class").hidden = rows.some((row) => !row.line.hidden);
    rows.filter((row) => row.line.hidden).forEach((row) => row.spans.forEach((span) => setNow(span, false)));
    sequence = rows.filter((row) => !row.line.hidden).flatMap((row) => row.spans).sort((one, other) => one.start - other.start);
    sequence.forEach((span, place) => { if (place < MOST_CARDS) span.card ??= makeCard(span); });
    cards.replaceChildren(...sequence.slice(0, MOST_CARDS).map((span) => span.card.parentNode));
    byId("more-cards").hidden = sequence.length <= MOST_CARDS;
    byId("more-cards").textContent = `The first ${MOST_CARDS} of ${sequence.length} spans; the timeline has all.`;
    if (selected !== null && !sequence.includes(selected)) select(null);
    setEntrance();
    moved();
  }

  function makeChip(row, number) {
    const chip = element("button", row.name, { type: "button", class: "hue", style: `--hue:${row.hue}`, "aria-pressed": "false" });
    chip.addEventListener("click", () => {
      if (!chosen.delete(number)) chosen.add(number);
      filter();
    });
    return chip;
  }

  // --- the film ---

  function openPlayer() {
    const { source } = film;
    byId("player-note").hidden = true;
    stage.replaceChildren();
    if (source === null) {
      tellOfPlayer("The film is not available here. If you have it, choose its file; it stays on this computer.", null, true);
      return noPlayer(moved);
    }
    if (source.youtube !== undefined) {
      const { youtube, embed } = source;
      // YouTube's player refuses pages that have no address of their own.
      if (embed && location.protocol.startsWith("http")) return embeddedPlayer(stage, youtube, moved);
      return linkedPlayer(stage, youtube, moved, embed ? FROM_A_FILE : null);
    }
    return openFile(source.file, source.name, source);
  }

  function openFile(address, name, source) {
    const begins = name === film.source?.name ? film.source.begins : film.source?.copy_begins;
    return filePlayer(stage, address, name, begins ?? 0, moved, (entirely) => {
      if (!entirely && source?.visual === false) return;
      const kind = source?.format ? ` (${source.format})` : "";
      tellOfPlayer(entirely
        ? `This browser cannot play ${name}${kind}, or the file was moved after this page was made. The timeline works without it.`
          + `${source?.convert ? " This command makes a copy that browsers play; then choose it:" : ""}`
        : `This browser plays the sound of ${name}${kind}, but cannot show its pictures.${source?.convert ? " This command makes a copy that it can show; then choose it:" : ""}`,
      source?.convert ?? null);
      if (!entirely) return;
      const at = player.time();
      stage.replaceChildren();
      player = noPlayer(moved);
      player.seek(at);
    });
  }

  function tellOfPlayer(text, convert, isQuiet = false) {
    byId("player-note").classList.toggle("quiet", isQuiet);
    byId("player-text").textContent = text;
    byId("convert").hidden = convert === null;
    byId("convert-line").textContent = convert ?? "";
    byId("player-note").hidden = false;
    viewer.style.setProperty("--beside", stage.childElementCount ? 2 : 1);
  }

  function show(next) {
    player.close();
    film = next;
    selected = null;
    chosen.clear();
    byId("class-search").value = "";
    rows = film.rows.map((own, number) => {
      const row = { ...own, hue: HUES[number % HUES.length] };
      row.spans = own.spans.map((span) => ({ ...span, row })).sort((one, other) => one.start - other.start);
      row.spans.forEach((span) => { span.bar = makeBar(span); });
      row.line = makeLine(row);
      row.chip = makeChip(row, number);
      return row;
    });
    byId("filter").hidden = rows.length < 2;
    byId("chips").replaceChildren(...rows.map((row) => row.chip));
    lines.replaceChildren(axis, ...rows.map((row) => row.line), playhead);
    viewer.style.setProperty("--beside", 1);
    player = openPlayer();
    filter();
    viewer.classList.toggle("pictured", stage.childElementCount > 0 && sequence.length > 0);
    cards.scrollTop = 0;
    setZoom(1);
  }

  // --- keys and buttons ---

  const ACTIONS = {
    n: () => step(1), ArrowRight: () => step(1), p: () => step(-1), ArrowLeft: () => step(-1), j: () => stepRow(1), k: () => stepRow(-1),
    Home: () => goTo(sequence[0]), End: () => goTo(sequence.at(-1)),
    "+": () => setZoom(2 * zoom), "-": () => setZoom(zoom / 2), "?": () => byId("keys").showModal(),
    " ": () => (player.playing() ? player.pause() : player.play()),
  };
  const OF_PLAYERS = "npjk?"; // also while a player has the focus, which handles the other keys

  function press(event) {
    const { key, target } = event;
    if (film === null || event.ctrlKey || event.metaKey || event.altKey || byId("keys").open || !(key in ACTIONS)) return;
    if (!everywhere && !viewer.contains(target)) return;
    if (target.matches("input, select, textarea") || (target.matches("video, iframe") && !OF_PLAYERS.includes(key))) return;
    if (key === " " && target.matches("button:not(.span, .card), a, summary")) return;
    if ((key === "Home" || key === "End") && !viewer.contains(target)) return;
    event.preventDefault();
    ACTIONS[key]();
  }

  document.addEventListener("keydown", press);
  // Releasing Space would click a bar, which is a button.
  viewer.addEventListener("keyup", (event) => { if (event.key === " " && event.target.matches(".span, .card")) event.preventDefault(); });
  byId("class-search").addEventListener("input", filter);
  byId("previous-span").addEventListener("click", () => step(-1));
  byId("next-span").addEventListener("click", () => step(1));
  byId("zoom-out").addEventListener("click", ACTIONS["-"]);
  byId("zoom-in").addEventListener("click", ACTIONS["+"]);
  byId("show-keys").addEventListener("click", ACTIONS["?"]);
  byId("choose-file").addEventListener("click", () => byId("film-file").click());
  byId("film-file").addEventListener("change", ({ target }) => {
    if (!target.files.length) return;
    const at = player.time();
    player.close();
    byId("player-note").hidden = true;
    viewer.style.setProperty("--beside", 1);
    player = openFile(URL.createObjectURL(target.files[0]), target.files[0].name, null);
    viewer.classList.toggle("pictured", sequence.length > 0);
    player.seek(at);
    target.value = "";
  });
  byId("copy-line").addEventListener("click", () => navigator.clipboard?.writeText(byId("convert-line").textContent));
  new ResizeObserver(drawTicks).observe(timeline);
  return { show };
}

// A rating: a green disc if positive, else a red cross.
function markSign(positive, left, title) {
  const svg = drawing("svg", { class: `mark ${positive ? "yes" : "no"}`, viewBox: "0 0 16 16", role: "img", "aria-label": title });
  if (left !== undefined) svg.style.left = left;
  svg.append(drawing("title", {}), positive ? drawing("circle", { cx: 8, cy: 8, r: 6.5 }) : drawing("path", { d: "M3.5 3.5L12.5 12.5M12.5 3.5L3.5 12.5" }));
  svg.firstChild.textContent = title;
  return svg;
}
