(() => {
  "use strict";
  const MOST = 50;
  const AROUND = 70;
  const form = document.getElementById("search");
  const field = document.getElementById("query");
  const status = document.getElementById("found");
  const list = document.getElementById("results");
  const fold = (text) => text.normalize("NFC").toLowerCase().replaceAll("ё", "е");
  const lessons = JSON.parse(document.getElementById("data").textContent).map(([href, title, text]) => ({
    href, title, text, heading: fold(title), body: fold(text),
  }));

  // Every word must occur; a lesson that has them in its title comes first.
  const find = (words) => lessons
    .filter(({ heading, body }) => words.every((word) => heading.includes(word) || body.includes(word)))
    .map((lesson) => ({ lesson, rank: words.filter((word) => lesson.heading.includes(word)).length }))
    .sort((one, other) => other.rank - one.rank)
    .map(({ lesson }) => lesson);

  const excerpt = ({ text, body }, words) => {
    const at = Math.max(0, Math.min(...words.map((word) => body.indexOf(word)).filter((place) => place >= 0), body.length));
    const start = at === body.length ? 0 : Math.max(0, at - AROUND);
    const end = start + 2 * AROUND;
    return (start ? "\u2026" : "") + text.slice(start, end).trim() + (end < text.length ? "\u2026" : "");
  };

  // Text goes in as text: nothing that a lesson says is ever markup here.
  const show = (lesson, words) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    const lines = document.createElement("p");
    link.href = lesson.href;
    link.textContent = lesson.title;
    lines.textContent = excerpt(lesson, words);
    item.append(link, lines);
    return item;
  };

  const search = () => {
    const words = fold(field.value).split(/\s+/u).filter(Boolean);
    const found = words.length ? find(words) : [];
    list.replaceChildren(...found.slice(0, MOST).map((lesson) => show(lesson, words)));
    const said = found.length ? status.dataset.found.replace("{count}", String(found.length)) : status.dataset.nothing;
    status.textContent = words.length ? said : "";
  };

  const fromAddress = () => {
    const wanted = new URLSearchParams(location.hash.slice(1)).get("q");
    if (wanted !== null) {
      field.value = wanted;
      search();
    }
  };

  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  field.addEventListener("input", search);
  addEventListener("hashchange", fromAddress);
  fromAddress();
})();
