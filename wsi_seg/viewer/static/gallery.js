// The page of several results: cards with a small picture and the areas.
import { element, fetchJson, areaText } from "./plain.js";

const cards = document.getElementById("cards");
const filter = document.getElementById("filter");
let shown = [];

function card(entry) {
  const areas = entry.state.areas?.classes ?? [];
  const rows = entry.classes.map((each, n) => element("div", { className: "class" }, [
    element("span", { className: "swatch", style: { background: each.colour } }),
    each.name,
    element("span", { className: "amount" }, [areas[n] ? `${areaText(areas[n].mm2)} ${areas[n].percent.toFixed(1)} %` : ""]),
  ]));
  const text = [element("h2", {}, [entry.name]), element("p", { className: "faint" }, [entry.result]), ...rows.slice(0, 6)];
  if (rows.length > 6) text.push(element("p", { className: "faint" }, [`and ${rows.length - 6} more classes`]));
  if (!entry.state.finished && entry.has_labels) text.push(element("p", { className: "faint" }, [entry.is_live ? "predicted where you look" : `being made: ${entry.state.done} of ${entry.state.tasks}`]));
  const picture = element("img", { className: "picture", alt: "", src: `thumbnail/${entry.id}?v=${encodeURIComponent(entry.state.version)}` });
  picture.loading = "lazy";
  return element("a", { className: "card", href: `view/${entry.id}` }, [picture, element("div", { className: "text" }, text)]);
}

function render() {
  const wanted = filter.value.trim().toLowerCase();
  cards.replaceChildren(...shown.filter((entry) => `${entry.name} ${entry.result}`.toLowerCase().includes(wanted)).map(card));
}

async function load() {
  const found = await fetchJson("api");
  if (JSON.stringify(found) !== JSON.stringify(shown)) { shown = found; render(); }
}

filter.addEventListener("input", render);
load().catch(() => {}); // again soon
setInterval(() => load().catch(() => {}), 5000);
