// The report: charts are Plotly's, the table of classes is DataTables'. Data is {
//   title, made, version, data_dir, youtube, evaluations, models: as `evaluate` and `describe_models` have them,
//   timelines: { classes (names), videos: [[id, start, seconds, segments, [number of a class, ...], [[row, start, is it there], ...]], ...],
//                levels: the probabilities of all videos, classes and segments, a byte each, as base64, in units of 1 / scale,
//                notes: [[number of a video, reason why it comes first], ...], films: [[number of a video, source and pictures], ...], remarks }.
const data = pageData();
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 40rem)");
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7a7a7a"];
const YOUTUBE_ID = /^[A-Za-z0-9_-]{11}$/; // the data set's ids have 4 characters and are anonymous

// --- helpers ---------------------------------------------------------------------------------------------

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const isMissing = (value) => value === null || value === undefined;
const shown = (value, digits = 4) => (isMissing(value) ? "–" : value.toFixed(digits));
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;"); // Plotly reads texts as HTML

// A column is { head, cell (of a row), title, kind: "text" or "note" }; empty columns are left out.
function fillTable(table, columns, rows) {
  const kept = columns.filter((column, place) => place === 0 || rows.some((row) => !["", "–"].includes(column.cell(row))));
  const thead = element("thead");
  const heads = element("tr");
  kept.forEach(({ head, title, kind }) => {
    heads.append(element("th", head, { scope: "col", ...(title ? { title } : {}), ...(kind ? { class: kind } : {}) }));
  });
  thead.append(heads);
  const tbody = element("tbody");
  rows.forEach((row) => {
    const line = element("tr");
    kept.forEach(({ cell, kind }) => line.append(element("td", cell(row), kind ? { class: kind } : {})));
    tbody.append(line);
  });
  table.replaceChildren(thead, tbody);
  return kept;
}

function fillSelect(select, texts) {
  select.replaceChildren(...texts.map((text, value) => element("option", text, { value })));
}

// Show a section's message for missing data, and hide everything else except its heading.
function closeSection(id) {
  const section = byId(id);
  [...section.children].forEach((child) => { child.hidden = child.tagName !== "H2"; });
  section.querySelector(".missing").hidden = false;
}

function layout(more) {
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("text"), size: 13, family: colour("font") },
    margin: { l: 8, r: 12, t: 12, b: 8 }, hoverlabel: { font: { size: 13, family: colour("font") } }, dragmode: false,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" }, ...more,
    xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
  };
}

const CONFIG = { responsive: true, displayModeBar: false };

// --- scores ----------------------------------------------------------------------------------------------

const evaluation = () => data.evaluations[Number(byId("evaluation").value)];

const atHalf = (own) => own.at_thresholds?.find((row) => row.threshold === 0.5);

function scoreColumns(head, subjects) {
  return [
    { head: "", cell: (own) => own.name },
    { head: `MAP@${head.top_k.toLocaleString("en")}`, cell: (own) => shown(own.map),
      title: "Mean over the classes of average precision of their ranked segments: the challenge's own measure, 0 to 1" },
    { head: `${head.level} % interval`, cell: (own) => (isMissing(own.map_low) ? "–" : `${shown(own.map_low)} to ${shown(own.map_high)}`),
      title: "How far MAP moves when other videos of the same kind are drawn" },
    { head: "AUC", cell: (own) => shown(own.auc),
      title: "Area under the ROC curve over all ratings: how often a positive one is given a higher probability than a negative one, 0 to 1" },
    { head: "class AUC", cell: (own) => shown(own.class_auc), title: "The same within each class, mean over the classes" },
    { head: "precision", cell: (own) => shown(atHalf(own)?.precision),
      title: "Of the rated segments with a probability of at least 0.5, the share that is rated positive" },
    { head: "recall", cell: (own) => shown(atHalf(own)?.recall),
      title: "Of the segments that are rated positive, the share with a probability of at least 0.5" },
    { head: "calibration error", cell: (own) => shown(own.calibration_error),
      title: "Mean distance between a probability and the share of positive ratings among the segments that are given it" },
    { head: "duplicates", cell: (own) => (own.duplicates ? String(own.duplicates) : ""), title: "Repeated entries of a list, which count once" },
    { head: "note", cell: (own) => own.note, kind: "note" },
  ];
}

function showScores() {
  const { subjects, ...head } = evaluation();
  byId("evaluation-text").textContent =
    `${counted(head.ratings, "rating")} of segments in ${counted(head.videos, "video")}, ${head.positive.toLocaleString("en")} of them positive; `
    + `${head.classes_that_count} classes with a positive rating.`
    + (head.resamples ? ` The intervals hold ${head.level} % of ${head.resamples} resamples of the videos.` : "");
  const columns = fillTable(byId("score-table"), scoreColumns(head, subjects), subjects);
  byId("score-legend").replaceChildren(...columns.filter((own) => own.title)
    .flatMap((own) => [element("dt", own.head), element("dd", `${own.title}.`)]));
  const reversed = [...subjects].reverse();
  const trace = {
    type: "scatter", mode: "markers", cliponaxis: false, x: reversed.map((own) => own.map), y: reversed.map((own) => plain(own.name)),
    marker: { size: 11, color: reversed.map((own) => (own.kind === "baseline" ? colour("quiet") : colour("accent"))) },
    error_x: {
      type: "data", symmetric: false, array: reversed.map((own) => own.map_high - own.map),
      arrayminus: reversed.map((own) => own.map - own.map_low), color: colour("quiet"), thickness: 1.5,
      visible: subjects.every((own) => own.map_low !== null),
    },
    hovertemplate: "%{y}: %{x:.4f}<extra></extra>",
  };
  Plotly.react("score-chart", [trace], layout({
    height: 90 + 34 * subjects.length, xaxis: { range: [0, 1], title: { text: `MAP@${head.top_k.toLocaleString("en")}` }, fixedrange: true },
    yaxis: { type: "category", fixedrange: true }, showlegend: false,
  }), CONFIG);
}

function showFolds() {
  const { folds } = evaluation();
  byId("folds").hidden = folds.length === 0;
  if (folds.length === 0) return;
  fillTable(byId("fold-table"), [
    { head: "", cell: (row) => row.subject }, { head: "measure", cell: (row) => row.measure, kind: "text" },
    ...folds[0].folds.map((fold, place) => ({ head: `fold ${fold}`, cell: (row) => shown(row.values[place]) })),
    { head: "mean", cell: (row) => shown(row.mean) },
    { head: "deviation", cell: (row) => shown(row.deviation), title: "Standard deviation of the folds" },
  ], folds);
}

// --- classes ---------------------------------------------------------------------------------------------

let classTable = null;

function showClasses(DataTable) {
  const { subjects, classes } = evaluation();
  if (classTable !== null) {
    classTable.destroy();
    byId("class-table").replaceChildren();
  }
  classTable = new DataTable(byId("class-table"), {
    data: classes.map((own) => [own.name, own.label, own.ratings, own.positive, ...own.ap]),
    columns: [
      { title: "Class", render: DataTable.render.text() }, { title: "Label" },
      { title: "Ratings", searchable: false }, { title: "Positive", searchable: false },
      ...subjects.map((own) => ({
        title: plain(own.name), searchable: false, className: "dt-right", type: "num",
        render: (value, purpose) => (purpose === "display" ? shown(value, 3) : value === null ? -1 : value),
      }))],
    order: [[3, "desc"]], pageLength: 25, language: { search: "Search by class name or label:" }, autoWidth: false,
  });
  const box = byId("class-table").closest(".dt-layout-cell");
  Object.entries({ tabindex: "0", role: "region", "aria-label": "Table of classes" }).forEach(([name, value]) => box.setAttribute(name, value));
}

// --- calibration -----------------------------------------------------------------------------------------

function showCalibration() {
  const subjects = evaluation().subjects.filter((own) => own.calibration);
  const section = byId("calibration");
  section.querySelector(".missing").hidden = subjects.length > 0;
  ["calibration-chart", "calibration-table"].forEach((id) => { byId(id).hidden = subjects.length === 0; });
  if (subjects.length === 0) return;
  const traces = subjects.map((own, number) => ({
    type: "scatter", mode: "lines+markers", cliponaxis: false, name: plain(own.name), x: own.calibration.map((bin) => bin.mean),
    y: own.calibration.map((bin) => bin.positive), customdata: own.calibration.map((bin) => bin.ratings),
    line: { color: COLOURS[number % COLOURS.length], width: 2 },
    hovertemplate: `${plain(own.name)}<br>probability %{x:.2f}, positive %{y:.2f}<br>%{customdata} ratings<extra></extra>`,
  }));
  traces.push({
    type: "scatter", mode: "lines", x: [0, 1], y: [0, 1], showlegend: false, hoverinfo: "skip",
    line: { color: colour("quiet"), dash: "dot", width: 1 },
  });
  Plotly.react("calibration-chart", traces, layout({
    height: narrow.matches ? 520 : 440, xaxis: { range: [0, 1], title: { text: "predicted probability" }, fixedrange: true },
    yaxis: { range: [0, 1], title: { text: "share of positive ratings" }, fixedrange: true },
  }), CONFIG);
  const bins = [...new Set(subjects.flatMap((own) => own.calibration.map((bin) => bin.from)))].sort((a, b) => a - b);
  fillTable(byId("calibration-table"), [
    { head: "positive of those given", cell: (own) => own.name },
    ...bins.map((from) => ({
      head: `${from.toFixed(1)} to ${(from + 0.1).toFixed(1)}`,
      cell: (own) => {
        const bin = own.calibration.find((other) => other.from === from);
        return bin === undefined ? "–" : `${shown(bin.positive, 2)} of ${bin.ratings}`;
      },
    })),
  ], subjects);
}

// --- timelines -------------------------------------------------------------------------------------------

const { classes: classNames, videos, scale, notes, films, remarks } = data.timelines;
const levels = Uint8Array.from(atob(data.timelines.levels), (letter) => letter.charCodeAt(0));
const noteOf = new Map(notes);
const filmOf = new Map(films);
const offsets = []; // of each video's levels
videos.reduce((sum, [, , , segments, classes]) => { offsets.push(sum); return sum + segments * classes.length; }, 0);

const levelsOf = (number, row) => {
  const [, , , segments] = videos[number];
  return levels.subarray(offsets[number] + row * segments, offsets[number] + (row + 1) * segments);
};
const peakOf = (number, row) => levelsOf(number, row).reduce((most, level) => Math.max(most, level), 0) / scale;

// Runs of segments with probabilities of at least 0.5, as spans for viewer.js.
function spansOf(values, start, seconds) {
  const spans = [];
  let first = -1;
  for (let place = 0; place <= values.length; place += 1) {
    const isIn = place < values.length && 2 * values[place] >= scale;
    if (isIn && first < 0) first = place;
    if (!isIn && first >= 0) {
      const own = Array.from(values.subarray(first, place));
      const most = Math.max(...own);
      spans.push({
        start: start + SEGMENT * first, end: Math.min(start + SEGMENT * place, seconds),
        mean: own.reduce((sum, level) => sum + level, 0) / own.length / scale, highest: most / scale,
        at: start + SEGMENT * (first + own.indexOf(most)), below: false, picture: null,
      });
      first = -1;
    }
  }
  return spans;
}

function sourceOf(number) {
  const name = videos[number][0];
  if (filmOf.has(number)) return filmOf.get(number);
  return YOUTUBE_ID.test(name) ? { youtube: name, embed: data.youtube } : null;
}

function filmAt(number) {
  const [name, start, seconds, segments, classes, marks] = videos[number];
  const rows = classes.map((place, row) => {
    const own = levelsOf(number, row);
    return {
      name: classNames[place], start, values: Array.from(own, (level) => level / scale), spans: spansOf(own, start, seconds),
      marks: marks.filter(([of]) => of === row).map(([, second, positive]) => ({ start: second, positive })),
    };
  });
  filmOf.get(number)?.pictures.forEach((picture, place) => { rows.flatMap((row) => row.spans)[place].picture = picture; });
  return { name, seconds, source: sourceOf(number), looked: [start, Math.min(start + SEGMENT * segments, seconds)], rows };
}

function detail(number) {
  if (noteOf.has(number)) return noteOf.get(number);
  const [, , , , classes] = videos[number];
  return classes.slice(0, 2).map((place, row) => `${classNames[place]} ${digits(peakOf(number, row))}`).join(" · ");
}

// Matching videos: those with a note first, then those with a matching class, by probability.
function findVideos(text) {
  const fitting = new Set(text === "" ? [] : classNames.flatMap((name, place) => (name.toLowerCase().includes(text) ? [place] : [])));
  const found = [];
  videos.forEach(([name, , , , classes], number) => {
    if (text === "") found.push([noteOf.has(number) ? 2 : 0, number]);
    else if (name.toLowerCase() === text) found.push([3, number]);
    else if (name.toLowerCase().includes(text)) found.push([2, number]);
    else {
      const rows = classes.flatMap((place, row) => (fitting.has(place) ? [row] : []));
      if (rows.length) found.push([Math.max(...rows.map((row) => peakOf(number, row))), number]);
    }
  });
  const order = new Map(notes.map(([number], place) => [number, place]));
  const rank = (number) => order.get(number) ?? notes.length + number;
  found.sort(([one, a], [other, b]) => other - one || (text === "" ? rank(a) - rank(b) : a - b));
  return found.map(([, number]) => ({
    key: number, title: videos[number][0],
    detail: fitting.size === 0 ? detail(number) : videos[number][4]
      .flatMap((place, row) => (fitting.has(place) ? [`${classNames[place]} ${digits(peakOf(number, row))}`] : [])).join(" · ") || detail(number),
  }));
}

function openTimelines() {
  if (videos.length === 0) {
    closeSection("timelines");
    return;
  }
  byId("yes-sign").append(markSign(true, undefined, "rated as there"));
  byId("no-sign").append(markSign(false, undefined, "rated as not there"));
  const viewer = createViewer(false);
  const choose = (number) => {
    const film = filmAt(number);
    chooser.select(number);
    byId("video-title").textContent = `${film.name}, ${clock(film.seconds)}`;
    byId("video-note").textContent = noteOf.has(number) ? `${noteOf.get(number)}.` : "";
    byId("mark-legend").hidden = film.rows.every((row) => row.marks.length === 0);
    byId("hatch-legend").hidden = film.looked[0] === 0 && film.looked[1] >= film.seconds;
    viewer.show(film);
  };
  const chooser = createChooser(findVideos, choose, "video");
  remarks.forEach((text) => byId("chooser").append(element("p", `${text}.`, { class: "hint" })));
  chooser.fill();
  choose(notes.length ? notes[0][0] : 0);
}

// --- models ----------------------------------------------------------------------------------------------

const kindOf = () => ["video", "segment"][Number(byId("curve-kind").value)];
const ofKind = (kind) => data.models.filter((own) => (own.kind === "video") === (kind === "video") && own.curves !== null);

function showModels() {
  fillTable(byId("model-table"), [
    { head: "model", cell: (own) => own.name }, { head: "kind", cell: (own) => own.kind, kind: "text" },
    { head: "built on", cell: (own) => own.base, kind: "text" },
    { head: "fold held out", cell: (own) => own.fold ?? "–", title: "The part of the rated shards it was not trained on" },
    { head: "steps", cell: (own) => (own.steps === null ? "–" : own.steps.toLocaleString("en")) },
    { head: "best evaluation", cell: (own) => own.best ?? "–", kind: "text" },
    { head: "weights", cell: (own) => own.parameters.toLocaleString("en"), title: "Number of trained parameters" },
  ], data.models);
}

function chooseCurves() {
  byId("curves").hidden = data.models.every((own) => own.curves === null);
  const metrics = [...new Set(ofKind(kindOf()).flatMap((own) => Object.keys(own.curves).filter((name) => name !== "step")))];
  fillSelect(byId("curve-metric"), metrics);
  const wanted = metrics.indexOf(ofKind(kindOf())[0]?.monitor);
  byId("curve-metric").value = Math.max(wanted, 0);
  showCurves();
}

function showCurves() {
  const select = byId("curve-metric");
  const metric = select.options[select.selectedIndex]?.textContent;
  const traces = ofKind(kindOf()).filter((own) => own.curves[metric]).map((own, number) => {
    const kept = own.curves.step.map((step, row) => [step, own.curves[metric][row]]).filter(([, value]) => value !== null);
    return {
      type: "scatter", mode: kept.length < 40 ? "lines+markers" : "lines", name: plain(own.name), x: kept.map(([step]) => step),
      y: kept.map(([, value]) => value), line: { color: COLOURS[number % COLOURS.length], width: 2 },
      hovertemplate: `${plain(own.name)}<br>step %{x}: %{y:.5g}<extra></extra>`,
    };
  });
  Plotly.react("curve-chart", traces, layout({
    height: narrow.matches ? 480 : 400, xaxis: { title: { text: "step" }, fixedrange: true }, yaxis: { title: { text: metric }, fixedrange: true }, showlegend: true,
  }), CONFIG);
}

function openModels() {
  if (data.models.length === 0) {
    closeSection("models");
    return;
  }
  showModels();
  fillSelect(byId("curve-kind"), ["pre-training", "fine-tuning"]);
  if (ofKind("segment").length) byId("curve-kind").value = 1;
  byId("curve-kind").addEventListener("change", chooseCurves);
  byId("curve-metric").addEventListener("change", showCurves);
  chooseCurves();
}

// --- the page --------------------------------------------------------------------------------------------

function showEvaluation(DataTable) {
  showScores();
  showFolds();
  showClasses(DataTable);
  showCalibration();
}

function drawAgain() {
  document.documentElement.classList.toggle("dark", dark.matches);
  if (data.evaluations.length) {
    showScores();
    showCalibration();
  }
  if (data.models.length) showCurves();
}

const source = new Blob([JSON.parse(byId("table-library").textContent)], { type: "text/javascript" });
const { default: DataTable } = await import(URL.createObjectURL(source));
document.documentElement.classList.toggle("dark", dark.matches);
byId("made").textContent = `Made ${data.made} by yt8m ${data.version} from ${data.data_dir}.`;
if (data.evaluations.length) {
  fillSelect(byId("evaluation"), data.evaluations.map((own) => `${own.file}: ${own.ratings_from}`));
  byId("evaluation").addEventListener("change", () => showEvaluation(DataTable));
  showEvaluation(DataTable);
} else {
  ["scores", "classes", "calibration"].forEach(closeSection);
}
openTimelines();
openModels();
dark.addEventListener("change", drawAgain);
narrow.addEventListener("change", drawAgain);
document.documentElement.dataset.ready = "true";
