// The report: data is a JSON element of this page, charts are Plotly's, the table of classes is DataTables'.
const data = JSON.parse(document.getElementById("data").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 40rem)");
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7a7a7a"];
const MARK = "#e8590c"; // also in the style sheet
const SEGMENT = 5; // seconds
const byId = (id) => document.getElementById(id);

// --- helpers ---------------------------------------------------------------------------------------------

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const shown = (value, digits = 4) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;"); // Plotly reads texts as HTML
const clock = (second) => `${Math.floor(second / 60)}:${String(second % 60).padStart(2, "0")}`;

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  return made;
}

function fillTable(table, head, rows, noteColumn = -1) {
  const line = (cells, tag) => {
    const row = element("tr");
    cells.forEach((text, place) => {
      const attributes = tag === "th" ? { scope: "col" } : place === noteColumn ? { class: "note" } : {};
      row.append(element(tag, text, attributes));
    });
    return row;
  };
  const thead = element("thead");
  const tbody = element("tbody");
  thead.append(line(head, "th"));
  rows.forEach((cells) => tbody.append(line(cells, "td")));
  table.replaceChildren(thead, tbody);
}

function fillSelect(select, texts) {
  select.replaceChildren(...texts.map((text, value) => element("option", text, { value })));
}

// Say that there is nothing in a section, and hide all but its heading.
function closeSection(id) {
  const section = byId(id);
  [...section.children].forEach((child) => { child.hidden = child.tagName !== "H2"; });
  section.querySelector(".missing").hidden = false;
}

function layout(more) {
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("text"), size: 13 },
    margin: { l: 8, r: 12, t: 12, b: 8 }, hoverlabel: { font: { size: 13 } }, dragmode: false,
    legend: { orientation: "h", y: -0.2 }, ...more,
    xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
  };
}

const CONFIG = { responsive: true, displayModeBar: false };

// --- scores ----------------------------------------------------------------------------------------------

const evaluation = () => data.evaluations[Number(byId("evaluation").value)];

function showScores() {
  const { subjects, ...head } = evaluation();
  byId("evaluation-text").textContent =
    `${head.ratings} ratings of segments in ${head.videos} videos, ${head.positive} of them positive; `
    + `${head.classes_that_count} classes with a positive rating. The intervals hold ${head.level} % of ${head.resamples} resamples `
    + "of the videos.";
  fillTable(byId("score-table"),
    ["", `MAP@${head.top_k}`, `${head.level} % interval`, "AUC", "class AUC", "calibration error", "duplicates", ""],
    subjects.map((own) => [
      own.name, shown(own.map), own.map_low === null ? "–" : `${shown(own.map_low)} – ${shown(own.map_high)}`,
      shown(own.auc), shown(own.class_auc), shown(own.calibration_error), String(own.duplicates), own.note]), 7);
  const reversed = [...subjects].reverse();
  const trace = {
    type: "scatter", mode: "markers", x: reversed.map((own) => own.map), y: reversed.map((own) => plain(own.name)),
    marker: { size: 11, color: reversed.map((own) => (own.kind === "baseline" ? colour("quiet") : colour("accent"))) },
    error_x: {
      type: "data", symmetric: false, array: reversed.map((own) => own.map_high - own.map),
      arrayminus: reversed.map((own) => own.map - own.map_low), color: colour("quiet"), thickness: 1.5,
      visible: subjects.every((own) => own.map_low !== null),
    },
    hovertemplate: "%{y}: %{x:.4f}<extra></extra>",
  };
  Plotly.react("score-chart", [trace], layout({
    height: 90 + 34 * subjects.length, xaxis: { range: [0, 1], title: { text: `MAP@${head.top_k}` }, fixedrange: true },
    yaxis: { type: "category", fixedrange: true }, showlegend: false,
  }), CONFIG);
}

function showFolds() {
  const { folds } = evaluation();
  byId("folds").hidden = folds.length === 0;
  if (folds.length === 0) return;
  fillTable(byId("fold-table"), ["", "", ...folds[0].folds.map((fold) => `fold ${fold}`), "mean", "std. deviation"],
    folds.map((row) => [row.subject, row.measure, ...row.values.map((value) => shown(value)), shown(row.mean), shown(row.deviation)]));
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
}

// --- calibration -----------------------------------------------------------------------------------------

function showCalibration() {
  const subjects = evaluation().subjects.filter((own) => own.calibration);
  const section = byId("calibration");
  section.querySelector(".missing").hidden = subjects.length > 0;
  ["calibration-chart", "calibration-table"].forEach((id) => { byId(id).hidden = subjects.length === 0; });
  if (subjects.length === 0) return;
  const traces = subjects.map((own, number) => ({
    type: "scatter", mode: "lines+markers", name: plain(own.name), x: own.calibration.map((bin) => bin.mean),
    y: own.calibration.map((bin) => bin.positive), customdata: own.calibration.map((bin) => bin.ratings),
    line: { color: COLOURS[number % COLOURS.length], width: 2 },
    hovertemplate: `${plain(own.name)}<br>probability %{x:.2f}, positive %{y:.2f}<br>%{customdata} ratings<extra></extra>`,
  }));
  traces.push({
    type: "scatter", mode: "lines", x: [0, 1], y: [0, 1], showlegend: false, hoverinfo: "skip",
    line: { color: colour("quiet"), dash: "dot", width: 1 },
  });
  Plotly.react("calibration-chart", traces, layout({
    height: 420, xaxis: { range: [0, 1], title: { text: "predicted probability" }, fixedrange: true },
    yaxis: { range: [0, 1], title: { text: "share of positive ratings" }, fixedrange: true },
  }), CONFIG);
  const bins = [...new Set(subjects.flatMap((own) => own.calibration.map((bin) => bin.from)))].sort((a, b) => a - b);
  fillTable(byId("calibration-table"), ["positive of those given", ...bins.map((from) => `${from.toFixed(1)} to ${(from + 0.1).toFixed(1)}`)],
    subjects.map((own) => [own.name, ...bins.map((from) => {
      const bin = own.calibration.find((other) => other.from === from);
      return bin === undefined ? "–" : `${(100 * bin.positive).toFixed(0)} % of ${bin.ratings}`;
    })]));
}

// --- timelines -------------------------------------------------------------------------------------------

const cursor = { row: 0, column: 0 };
const timeline = () => data.timelines[Number(byId("video").value)];
const shortName = (name) => (narrow.matches && name.length > 12 ? `${name.slice(0, 11)}…` : name);
const second = (own, column) => own.start + SEGMENT * column;

function watch(own, column) {
  if (own.url !== null) window.open(`${own.url}&t=${second(own, column)}s`, "_blank", "noopener");
}

function markOf(own, row, column) {
  return own.marks.find((mark) => mark.class === row && Math.floor((mark.start - own.start) / SEGMENT) === column);
}

function describe(own, row, column) {
  const mark = markOf(own, row, column);
  const rated = mark === undefined ? "" : mark.positive ? ", rated as there" : ", rated as not there";
  return `${own.classes[row].name}, ${clock(second(own, column))} to ${clock(second(own, column) + SEGMENT)}: `
    + `probability ${own.probabilities[row][column].toFixed(2)}${rated}`;
}

function showTimeline() {
  const own = timeline();
  const columns = own.probabilities[0].map((_, column) => column);
  const rows = own.classes.map((_, row) => row);
  const centres = columns.map((column) => second(own, column) + SEGMENT / 2);
  const heat = {
    type: "heatmap", x: centres, y: rows, z: own.probabilities, zmin: 0, zmax: 1, xgap: 1, ygap: 2,
    colorscale: dark.matches ? [[0, "#26282b"], [0.5, "#2f6f95"], [1, "#b9ecff"]] : [[0, "#eef2f5"], [0.5, "#6fa8cf"], [1, "#08305c"]],
    colorbar: { thickness: 10, tickvals: [0, 0.5, 1], outlinewidth: 0 }, showscale: !narrow.matches,
    text: rows.map((row) => columns.map((column) => plain(describe(own, row, column)))), hovertemplate: "%{text}<extra></extra>",
  };
  const marks = (positive, symbol) => {
    const chosen = own.marks.filter((mark) => mark.positive === positive);
    return {
      type: "scatter", mode: "markers", x: chosen.map((mark) => mark.start + SEGMENT / 2), y: chosen.map((mark) => mark.class),
      marker: { symbol, size: 9, color: MARK, line: { color: dark.matches ? "#161614" : "#ffffff", width: positive ? 1.5 : 0 } },
      hoverinfo: "skip", showlegend: false,
    };
  };
  const last = second(own, columns.length);
  const step = Math.max(30, 30 * Math.ceil((last - own.start) / (narrow.matches ? 120 : 300)));
  const ticks = [];
  for (let tick = Math.ceil(own.start / step) * step; tick <= last; tick += step) ticks.push(tick);
  Plotly.react("timeline", [heat, marks(true, "circle"), marks(false, "x-thin-open")], layout({
    height: 110 + 34 * rows.length,
    xaxis: { tickvals: ticks, ticktext: ticks.map(clock), title: { text: "time" }, fixedrange: true, showgrid: false, zeroline: false },
    yaxis: { tickvals: rows, ticktext: own.classes.map((entry) => plain(shortName(entry.name))), autorange: "reversed", fixedrange: true, showgrid: false, zeroline: false },
    shapes: [cursorShape(own)],
  }), CONFIG);
  byId("video-note").textContent = `${own.video}: ${own.note}.`;
  byId("watch-help").hidden = own.url === null;
  byId("readout").textContent = "";
}

function cursorShape(own) {
  const x = second(own, cursor.column);
  return {
    type: "rect", x0: x, x1: x + SEGMENT, y0: cursor.row - 0.5, y1: cursor.row + 0.5, visible: document.activeElement === byId("timeline"),
    line: { color: colour("focus"), width: 3 },
  };
}

function moveCursor(event) {
  const own = timeline();
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e6], End: [0, 1e6] };
  if (event.key === "Enter") {
    watch(own, cursor.column);
    return;
  }
  if (!(event.key in moves)) return;
  event.preventDefault();
  const [rows, columns] = moves[event.key];
  cursor.row = Math.min(Math.max(cursor.row + rows, 0), own.classes.length - 1);
  cursor.column = Math.min(Math.max(cursor.column + columns, 0), own.probabilities[0].length - 1);
  Plotly.relayout("timeline", { shapes: [cursorShape(own)] });
  byId("readout").textContent = describe(own, cursor.row, cursor.column);
}

function chooseVideo(number) {
  byId("video").value = (number + data.timelines.length) % data.timelines.length;
  cursor.row = 0;
  cursor.column = 0;
  showTimeline();
}

function openTimelines() {
  if (data.timelines.length === 0) {
    closeSection("timelines");
    return;
  }
  fillSelect(byId("video"), data.timelines.map((own) => own.video));
  byId("video").addEventListener("change", () => chooseVideo(Number(byId("video").value)));
  byId("previous-video").addEventListener("click", () => chooseVideo(Number(byId("video").value) - 1));
  byId("next-video").addEventListener("click", () => chooseVideo(Number(byId("video").value) + 1));
  chooseVideo(0);
  const chart = byId("timeline");
  chart.addEventListener("keydown", moveCursor);
  ["focus", "blur"].forEach((name) => chart.addEventListener(name, () => Plotly.relayout(chart, { shapes: [cursorShape(timeline())] })));
  chart.on("plotly_click", ({ points: [point] }) => {
    const own = timeline();
    watch(own, Math.floor((point.x - own.start) / SEGMENT));
  });
}

// --- models ----------------------------------------------------------------------------------------------

const kindOf = () => ["video", "segment"][Number(byId("curve-kind").value)];
const ofKind = (kind) => data.models.filter((own) => (own.kind === "video") === (kind === "video") && own.curves !== null);

function showModels() {
  fillTable(byId("model-table"), ["model", "kind", "built on", "fold held out", "steps", "best evaluation", "weights"],
    data.models.map((own) => [own.name, own.kind, own.base, own.fold ?? "–", own.steps === null ? "–" : String(own.steps), own.best ?? "–",
      own.parameters.toLocaleString("en")]));
}

function chooseCurves() {
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
    height: 380, xaxis: { title: { text: "step" }, fixedrange: true }, yaxis: { title: { text: metric }, fixedrange: true }, showlegend: true,
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
  if (data.timelines.length) showTimeline();
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
