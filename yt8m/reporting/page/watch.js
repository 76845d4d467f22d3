// The page of `localize --html`: data is { title, films }; viewer.js describes films.
const data = pageData();
const viewer = createViewer(true);

const spansOf = (film) => film.rows.flatMap((row) => row.spans.filter((span) => !span.below));
const classesOf = (film) => film.rows.filter((row) => row.spans.some((span) => !span.below)).map((row) => row.name);

function findFilms(text) {
  return data.films.map((film, key) => ({ film, key }))
    .filter(({ film }) => [film.name, ...classesOf(film)].some((name) => name.toLowerCase().includes(text)))
    .map(({ film, key }) => ({ key, title: film.name, detail: `${clock(film.seconds)} · ${classesOf(film).join(", ") || "no span"}` }));
}

function chooseFilm(number) {
  const film = data.films[number];
  const title = data.films.length === 1 && data.title ? data.title : film.name;
  byId("film-title").textContent = title;
  byId("film-facts").textContent = `${title === film.name ? "" : `${film.name}, `}${clock(film.seconds)} long, `
    + `${counted(spansOf(film).length, "span")} of ${classesOf(film).length === 1 ? "1 class" : `${classesOf(film).length} classes`}`;
  chooser.select(number);
  viewer.show(film);
}

const chooser = createChooser(findFilms, chooseFilm, "film");
byId("with-chooser").classList.toggle("several", data.films.length > 1);
byId("chooser").hidden = data.films.length < 2;
if (data.films.length) {
  chooser.fill();
  chooseFilm(0);
} else {
  byId("viewer").hidden = true;
  byId("film-facts").textContent = "No films.";
}
document.documentElement.dataset.ready = "true";
