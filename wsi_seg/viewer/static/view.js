// The page of one result: puts layers, classes, comparison, regions and the permalink together.
import { element, fetchJson, areaText, lengthText, roundLength } from "./plain.js";
import { Layers } from "./layers.js";
import { Regions } from "./regions.js";

const by = (id) => document.getElementById(id);
const id = location.pathname.split("/").pop();
const api = `../api/${id}`;
let shown = await fetchJson(api);
let version = shown.state.version;
let otherVersion = "", otherFinished = true; // of what it is compared with
const page = Math.floor(Math.random() * 1e8); // several pages may look at once

// ---- what is to be seen; all of it stands in the permalink
const wish = { slide: true, labels: true, opacity: 70, hidden: new Set(shown.classes.length > 1 ? [0] : []), heat: "", other: "", mode: "difference", colours: new Map() };

function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  if (link.has("slide")) wish.slide = link.get("slide") === "1";
  if (link.has("labels")) wish.labels = link.get("labels") === "1";
  if (link.has("opacity")) wish.opacity = Math.min(100, Math.max(0, Number(link.get("opacity")) || 0));
  if (link.has("hide")) wish.hidden = new Set(link.get("hide").split(".").filter((each) => /^[0-9]+$/.test(each)).map(Number));
  if ([...link].length) { // what it does not name is not to be seen
    wish.heat = Number(link.get("heat") || NaN) in shown.probabilities ? link.get("heat") : "";
    wish.other = shown.others.find((each) => each.id === link.get("other"))?.id ?? "";
    wish.mode = link.get("mode") === "beside" ? "beside" : "difference";
    const found = [...(link.get("colours") ?? "").matchAll(/(\d+)-([0-9a-f]{6})/g)].filter(([, n]) => Number(n) < shown.classes.length);
    wish.colours = new Map(found.map(([, n, colour]) => [Number(n), `#${colour}`]));
  }
  return link;
}

function writeLink() {
  const { x, y, zoom } = place();
  const link = new URLSearchParams({
    x: x.toFixed(2), y: y.toFixed(2), zoom: zoom.toPrecision(7), slide: wish.slide ? 1 : 0, labels: wish.labels ? 1 : 0,
    opacity: wish.opacity, hide: [...wish.hidden].join("."),
  });
  if (wish.heat !== "") link.set("heat", wish.heat);
  if (wish.colours.size) link.set("colours", coloursText());
  if (wish.other) { link.set("other", wish.other); link.set("mode", wish.mode); }
  history.replaceState(null, "", `#${link}`);
}

// Two results of one slide have its name: then that of the result tells them apart.
const nameOf = (each) => (each.result && shown.others.some((other) => other.name === shown.name) ? `${each.name}, ${each.result}` : each.name);

// ---- the panes
function makeOsd(where) {
  const made = OpenSeadragon({
    element: by(where), drawer: "canvas", prefixUrl: "../static/", showNavigationControl: false, showNavigator: where === "osd-left",
    navigatorPosition: "TOP_RIGHT", navigatorBackground: "#fff", navigatorBorderColor: "#d0d7de", navigatorDisplayRegionColor: "#0072b2", navigatorSizeRatio: 0.18, animationTime: 0.4, maxZoomPixelRatio: 16, minZoomImageRatio: 0.8, visibilityRatio: 0.3, preserveViewport: true, preserveImageSizeOnResize: true,
    minPixelRatio: 0.51, // at a half, a quarter, … the level of that very size, px for px
    imageLoaderLimit: 8, maxImageCacheCount: 400, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    crossOriginPolicy: "Anonymous", immediateRender: true, subPixelRoundingForTransparency: 2, debugMode: false,
  });
  made.addHandler("canvas-key", (event) => { // of OpenSeadragon's keys only those that move: r turns, f mirrors, s d 0 are ours
    if (!/^(Arrow|[-+=_]$)/.test(event.originalEvent.key)) event.preventDefaultAction = true;
  });
  return made;
}

const [l0Height, l0Width] = shown.size;
const osd = makeOsd("osd-left");
const layers = new Layers(osd, shown);
let beside = null; // { osd, layers }
window.wsiSeg = { osd, layers, wish, regions: null }; // for the console, and for tests

const toViewport = (x, y) => new OpenSeadragon.Point(x / l0Width, y / l0Width);
const fromViewport = (point) => [point.x * l0Width, point.y * l0Width];
function place() {
  const [x, y] = fromViewport(osd.viewport.getCenter(true));
  return { x, y, zoom: (osd.viewport.getZoom(true) * osd.viewport.getContainerSize().x) / l0Width }; // screen px per level-0 px
}
function go(x, y, zoom) {
  const { clientWidth, clientHeight } = by("osd-left"); // which it notices later, where a second pane has just come
  osd.viewport.resize(new OpenSeadragon.Point(clientWidth, clientHeight), true);
  osd.viewport.zoomTo((zoom * l0Width) / osd.viewport.getContainerSize().x, null, true);
  osd.viewport.panTo(toViewport(x, y), true);
}

const coloursText = () => [...wish.colours].map(([n, colour]) => `${n}-${colour.slice(1)}`).join(".");
const colourOf = (n) => wish.colours.get(n) ?? shown.classes[n].colour;

function tiles(ofId, layer, hide = "") {
  const looks = layer === "labels" ? (hide ? `&hide=${hide}` : "") + (wish.colours.size ? `&colours=${coloursText()}` : "") : "";
  const query = `v=${encodeURIComponent(ofId === id ? version : otherVersion)}${looks}`;
  return (level, row, column) => `../tile/${ofId}/${layer}/${level}/${row}/${column}?${query}`;
}

function render() {
  const hide = [...wish.hidden].sort((a, b) => a - b).join(".");
  const opacity = wish.labels ? wish.opacity / 100 : 0;
  const differing = wish.other && wish.mode === "difference";
  layers.set("slide", "slide", tiles(id, "slide"), shown.has_slide && wish.slide ? 1 : 0);
  if (shown.has_labels) layers.set("labels", `${version}|${hide}|${coloursText()}`, tiles(id, "labels", hide), differing ? 0 : opacity);
  if (wish.heat !== "") layers.set("heat", `${version}|${wish.heat}`, tiles(id, `probability-${wish.heat}`), 0.8);
  else layers.remove("heat");
  if (differing) {
    const address = (level, row, column) => `../difference/${id}/${wish.other}/${level}/${row}/${column}?v=${encodeURIComponent(version)}&w=${encodeURIComponent(otherVersion)}`;
    layers.set("difference", `${version}|${wish.other}|${otherVersion}`, address, Math.max(opacity, 0.2));
  } else layers.remove("difference");
  renderBeside(hide, opacity);
  for (const [box, on] of [["show-slide", wish.slide], ["show-labels", wish.labels]]) by(box).checked = on;
  by("heat").value = wish.heat; by("other").value = wish.other; by("mode").value = wish.mode;
  by("opacity").value = wish.opacity;
  by("opacity-text").textContent = `${wish.opacity} %`;
  for (const input of by("classes").querySelectorAll("input[type=checkbox]")) input.checked = !wish.hidden.has(Number(input.value));
  by("classes").querySelectorAll("input[type=color]").forEach((input, n) => { input.value = colourOf(n); });
  if (osd.world.getItemCount()) writeLink();
}

function renderBeside(hide, opacity) {
  const wanted = wish.other && wish.mode === "beside";
  by("right").hidden = !wanted;
  by("badge-left").textContent = wanted ? nameOf(shown) : "";
  if (!wanted) {
    if (beside) { beside.osd.destroy(); beside = null; }
    return;
  }
  by("badge-right").textContent = nameOf(shown.others.find((each) => each.id === wish.other));
  if (!beside || beside.id !== wish.other) {
    beside?.osd.destroy();
    const other = makeOsd("osd-right");
    beside = { id: wish.other, osd: other, layers: new Layers(other, shown) };
    follow(osd, other); follow(other, osd);
    other.addOnceHandler("tile-loaded", () => { copyPlace(osd, other); smooth = null; smoothing(); });
  }
  beside.layers.set("slide", "slide", tiles(id, "slide"), shown.has_slide && wish.slide ? 1 : 0);
  beside.layers.set("labels", `${otherVersion}|${hide}|${coloursText()}`, tiles(wish.other, "labels", hide), opacity);
}

let following = false;
function copyPlace(from, to) {
  if (!to.viewport || !from.viewport) return;
  following = true;
  to.viewport.zoomTo((from.viewport.getZoom(true) * from.viewport.getContainerSize().x) / to.viewport.getContainerSize().x, null, true);
  to.viewport.panTo(from.viewport.getCenter(true), true);
  following = false;
}
function follow(from, to) {
  from.addHandler("viewport-change", () => { if (!following && beside) copyPlace(from, to); });
}

// ---- classes
function renderClasses() {
  const areas = shown.state.areas;
  const rows = shown.classes.map((each, n) => classRow(n, each.name, swatch(n), areas?.classes[n]));
  if (shown.has_labels) {
    rows.push(classRow(shown.classes.length, "not analysed", element("span", { className: "swatch hatched" }), areas ? { mm2: areas.not_analysed_mm2 } : null));
  }
  by("classes").replaceChildren(...rows);
  by("classes-part").hidden = !shown.has_labels;
  by("areas-total").textContent = areas ? `analysed ${areaText(areas.analysed_mm2)}` : "";
  for (const input of by("classes").querySelectorAll("input[type=checkbox]")) input.checked = !wish.hidden.has(Number(input.value));
}

function swatch(n) {
  return element("input", {
    type: "color", className: "swatch", value: colourOf(n), title: "another colour", "aria-label": `colour of ${shown.classes[n].name}`,
    onchange: (event) => { wish.colours.set(n, event.target.value); render(); },
  });
}

function classRow(index, name, swatch, area) {
  const box = element("input", { type: "checkbox", value: String(index), onchange: () => toggleClass(index) });
  const amount = area ? areaText(area.mm2) + (area.percent === undefined ? "" : `  ${area.percent.toFixed(1)} %`) : "";
  return element("label", { className: "class" }, [
    box, swatch, name, element("span", { className: "amount" }, [amount]),
  ]);
}

function toggleClass(index) {
  if (!wish.hidden.delete(index)) wish.hidden.add(index);
  render();
}

// ---- scale bar, cursor
let smooth = null;
function smoothing() { // labels are never smoothed where their px can be seen
  const wanted = place().zoom < 1;
  if (wanted === smooth) return;
  smooth = wanted;
  for (const drawer of [osd.drawer, beside?.osd.drawer]) {
    if (!drawer) continue;
    if (drawer.sketchContext) drawer.sketchContext.imageSmoothingEnabled = wanted; // OpenSeadragon 6.1.1 forgets it
    drawer.setImageSmoothingEnabled(wanted);
  }
}

function renderScale() {
  if (!shown.mpp || !osd.viewport) { by("scale").hidden = true; return; }
  const pxPerUm = place().zoom / shown.mpp[1];
  const length = roundLength(160 / pxPerUm);
  by("scale-bar").style.width = `${length * pxPerUm}px`;
  by("scale-text").textContent = lengthText(length);
}

let lastAsked = 0, askTimer = 0, lastPx = "";
function renderCursor(position) {
  const [x, y] = fromViewport(osd.viewport.pointFromPixel(position, true));
  if (x < 0 || y < 0 || x >= l0Width || y >= l0Height) { by("cursor").textContent = ""; return; }
  const um = shown.mpp ? `x ${(x * shown.mpp[1]).toFixed(1)} µm   y ${(y * shown.mpp[0]).toFixed(1)} µm` : "";
  const px = `x ${Math.floor(x)} px   y ${Math.floor(y)} px`;
  const said = by("cursor");
  if (px !== lastPx) { said.dataset.class = shown.has_labels ? "…" : ""; lastPx = px; lastAsked++; } // not that of the px before
  said.textContent = [said.dataset.class ?? "", um, px].filter(Boolean).join("\n");
  if (!shown.has_labels) return;
  clearTimeout(askTimer);
  askTimer = setTimeout(async () => {
    const asked = ++lastAsked;
    const found = await fetchJson(`${api}/at/${Math.floor(y)}/${Math.floor(x)}`).catch(() => null);
    if (asked !== lastAsked) return;
    if (!found) { said.dataset.class = ""; said.textContent = [um, px].filter(Boolean).join("\n"); return; }
    const chances = (found.probabilities ?? []).map((each, n) => `${shown.probabilities[n]} ${each.toFixed(2)}`);
    said.dataset.class = [found.class === null ? "not analysed" : shown.classes[found.class]?.name ?? "", ...chances].join("   ");
    said.textContent = [said.dataset.class, um, px].filter(Boolean).join("\n");
  }, 60);
}

// ---- regions
const regions = new Regions(by("drawing"), (x, y) => {
  const point = osd.viewport.pixelFromPoint(toViewport(x, y), true);
  return [point.x, point.y];
}, regionsChanged);
window.wsiSeg.regions = regions;

let areKept = false; // whether what the file held is among the regions
let areDrawn = false; // whether regions would be lost with the page
let keepTimer = 0;
function regionsChanged() {
  renderRegions();
  areDrawn = !shown.keeps_regions && regions.list.length > 0;
  if (areKept) { clearTimeout(keepTimer); keepTimer = setTimeout(keep, 300); }
}
addEventListener("beforeunload", (event) => { if (areDrawn) event.preventDefault(); });

function renderRegions() {
  by("regions").replaceChildren(...regions.list.map((region, n) => element("li", {}, [
    `${n + 1}. ${region.name || "region"}`,
    element("button", { type: "button", title: "remove", "aria-label": `remove region ${n + 1}`, onclick: () => regions.remove(n) }, ["×"]),
  ])));
}

function startDrawing() {
  const select = by("region-class");
  regions.begin(select.value, shown.classes.find((each) => each.name === select.value)?.colour ?? "#000000");
  by("draw").setAttribute("aria-pressed", "true");
  by("regions-said").textContent = "Click points; Enter or a double click closes, Backspace takes one back, Esc gives up.";
}

function stopDrawing(close) {
  if (close) regions.close(); else regions.giveUp();
  by("draw").setAttribute("aria-pressed", "false");
  by("regions-said").textContent = "";
}

function download() {
  if (!regions.list.length) { by("regions-said").textContent = "No region is drawn yet."; return; }
  areDrawn = false;
  const text = JSON.stringify(regions.toGeoJson(shown.origin), null, 1);
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "application/geo+json" })), download: `${shown.name}.geojson` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function keep() {
  const body = JSON.stringify(regions.toGeoJson(shown.origin));
  if (!areKept) { by("regions-said").textContent = "The file could not be read: nothing is written over it. Load the page again."; return; }
  const answer = await fetch(`${api}/regions`, { method: "PUT", body, headers: { "Content-Type": "application/geo+json" } });
  by("regions-said").textContent = answer.ok ? `kept in the file: ${(await answer.json()).n}` : await answer.text();
}

async function upload(file) {
  try {
    regions.addGeoJson(JSON.parse(await file.text()), shown.origin);
  } catch (error) {
    by("regions-said").textContent = `${file.name}: ${error.message}`;
  }
}

// ---- comparing
async function pollOther() {
  if (!wish.other) return false;
  const asked = wish.other;
  const state = await fetchJson(`../api/${asked}/state`).catch(() => null);
  if (!state || asked !== wish.other || state.version === otherVersion) return false;
  otherVersion = state.version; otherFinished = state.finished;
  return true;
}

async function renderAgreement() {
  by("agreement").replaceChildren();
  if (!wish.other) return;
  const found = await fetchJson(`${api}/agreement/${wish.other}`).catch(() => null);
  if (!found) return;
  by("agreement").replaceChildren(
    ...found.shares.map((each) => element("div", { className: "class" }, [
      element("span"), element("span", { className: "swatch", style: { background: each.colour } }), each.kind,
      element("span", { className: "amount" }, [`${(100 * each.share).toFixed(2)} %`]),
    ])),
    element("p", { className: "faint" }, [`going from the other result to this one${found.downsample > 1 ? `; counted on every ${found.downsample}th px` : ""}`]),
  );
}

async function compare(other, mode) {
  wish.other = other; wish.mode = mode;
  by("other").value = other; by("mode").value = mode;
  await pollOther();
  render(); renderAgreement();
}

function nextComparison() {
  const first = by("other").options[1]?.value;
  if (!first) return;
  if (!wish.other) compare(first, "difference");
  else if (wish.mode === "difference") compare(wish.other, "beside");
  else compare("", "difference");
}

// ---- running results, and masks that are predicted where one looks
async function poll() {
  const state = await fetchJson(`${api}/state`).catch(() => null);
  if (!state) return;
  const changed = state.version !== version;
  const another = state.run !== shown.state.run; // replaced: other classes, another place
  if (another || (state.finished && !shown.state.finished)) shown = await fetchJson(api);
  shown.state = state;
  version = state.version;
  renderProgress();
  if (another) wire();
  const otherChanged = await pollOther();
  if (changed) renderClasses();
  if (changed || otherChanged) render();
  if ((changed || otherChanged) && state.finished && otherFinished) renderAgreement();
}

function renderProgress() {
  const { finished, done, tasks } = shown.state;
  by("progress").hidden = finished;
  if (!finished && !shown.is_live) by("progress").textContent = `being made: ${done} of ${tasks} tasks`;
  by("notes").replaceChildren(...shown.notes.map((note) => element("li", {}, [note])));
}

async function look() {
  if (!shown.is_live || !osd.viewport) return;
  const bounds = osd.viewport.getBounds(true);
  const [x0, y0] = fromViewport(bounds.getTopLeft()), [x1, y1] = fromViewport(bounds.getBottomRight());
  const box = [[y0, l0Height], [x0, l0Width], [y1, l0Height], [x1, l0Width]].map(([value, most]) => Math.round(Math.min(Math.max(value, 0), most)));
  const answer = await fetchJson(`${api}/look/${box.join("/")}?page=${page}`).catch(() => null);
  if (!answer) return;
  by("progress").textContent = answer.to_come < 0 ? "zoom in to predict what is in sight" : answer.to_come ? `predicting what is in sight (blocks to come: ${answer.to_come}); hatched until then` : "what is in sight is predicted";
}

// ---- wiring
function wire() { // what is said of it; once more where another result has taken its place
  by("name").textContent = shown.name;
  by("gallery").hidden = shown.n_shown < 2;
  by("result").textContent = shown.result;
  by("labels-row").hidden = !shown.has_labels;
  document.title = shown.name;
  by("facts").textContent = `${l0Width} × ${l0Height} px` + (shown.mpp ? `, ${Number(shown.mpp[1].toPrecision(4))} µm/px` : "");
  by("show-slide").onchange = (event) => { wish.slide = event.target.checked; render(); };
  by("show-labels").onchange = (event) => { wish.labels = event.target.checked; render(); };
  by("opacity").oninput = (event) => { wish.opacity = Number(event.target.value); render(); };
  by("heat-row").hidden = !shown.probabilities.length;
  by("heat").replaceChildren(element("option", { value: "" }, ["–"]), ...shown.probabilities.map((name, n) => element("option", { value: String(n) }, [name])));
  by("heat").value = wish.heat;
  by("heat").onchange = (event) => { wish.heat = event.target.value; render(); };
  by("compare-part").hidden = !shown.others.length;
  by("other").replaceChildren(element("option", { value: "" }, ["–"]), ...shown.others.map((each) => element("option", { value: each.id }, [nameOf(each)])));
  by("other").onchange = by("mode").onchange = () => compare(by("other").value, by("mode").value);
  by("region-class").replaceChildren(element("option", { value: "" }, ["no class"]), ...shown.classes.map((each) => element("option", { value: each.name }, [each.name])));
  by("draw").onclick = () => (regions.open ? stopDrawing(true) : startDrawing());
  by("download").onclick = download;
  by("keep").hidden = !shown.keeps_regions;
  by("keep").onclick = keep;
  by("open").onclick = () => by("upload").click();
  by("upload").onchange = async (event) => { if (event.target.files.length) await upload(event.target.files[0]); event.target.value = ""; };
  by("link").onclick = () => { writeLink(); navigator.clipboard?.writeText(location.href); by("link").textContent = "Copied"; setTimeout(() => { by("link").textContent = "Copy link to this view"; }, 1500); };
  by("help").onclick = () => by("keys").showModal();
}
addEventListener("keydown", onKey);
addEventListener("resize", () => regions.draw());
addEventListener("hashchange", async () => { applyLink(readLink()); await pollOther(); render(); renderAgreement(); });

function onKey(event) {
  if (event.target.closest("input:not([type=checkbox]):not([type=range]), select, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    m: () => { wish.labels = !wish.labels; render(); },
    s: () => { wish.slide = !wish.slide; render(); },
    "[": () => { wish.opacity = Math.max(0, wish.opacity - 10); render(); },
    "]": () => { wish.opacity = Math.min(100, wish.opacity + 10); render(); },
    d: () => (regions.open ? null : startDrawing()),
    ...(regions.open ? { Enter: () => stopDrawing(true), Escape: () => stopDrawing(false), Backspace: () => regions.takeBack() } : {}),
    f: () => go(place().x, place().y, 1),
    Home: () => osd.viewport.goHome(),
    0: () => osd.viewport.goHome(),
    c: nextComparison,
    "?": () => by("keys").showModal(),
  };
  if (event.key === "Enter" && event.target.closest("button") && event.target !== by("draw")) return; // presses it
  if (/^[1-9]$/.test(event.key) && Number(event.key) <= shown.classes.length) toggleClass(Number(event.key) - 1);
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
}

function applyLink(link) {
  if (link.has("x") && link.has("y") && Number(link.get("zoom")) > 0) go(Number(link.get("x")), Number(link.get("y")), Number(link.get("zoom")));
}

const link = readLink();
wire();
renderClasses();
renderProgress();
await pollOther();
render();
osd.addOnceHandler("open", () => {});
osd.world.addOnceHandler("add-item", () => {
  osd.viewport.goHome(true);
  if (link.has("x")) applyLink(link);
  else {
    const [y0, x0, y1, x1] = shown.canvas; // of a slide with bounds, what was scanned
    osd.viewport.fitBounds(new OpenSeadragon.Rect(x0 / l0Width, y0 / l0Width, (x1 - x0) / l0Width, (y1 - y0) / l0Width), true);
  }
  smoothing(); renderScale(); look(); renderAgreement();
});
osd.addHandler("update-viewport", () => { smoothing(); renderScale(); regions.draw(); });
osd.addHandler("animation-finish", () => { writeLink(); look(); });
osd.addHandler("zoom", smoothing);
let pressed = null;
osd.addHandler("canvas-press", (event) => { pressed = event.position; });
osd.addHandler("canvas-click", (event) => {
  if (!regions.open) return;
  event.preventDefaultAction = true;
  if (pressed && pressed.distanceTo(event.position) > 5) return; // moved the slide
  regions.addPoint(...fromViewport(osd.viewport.pointFromPixel(event.position, true)));
});
osd.addHandler("canvas-double-click", (event) => {
  if (!regions.open) return;
  event.preventDefaultAction = true;
  stopDrawing(true);
});
new OpenSeadragon.MouseTracker({
  element: osd.container,
  moveHandler: (event) => {
    regions.pointer = regions.open ? [event.position.x, event.position.y] : null;
    if (regions.open) regions.draw();
    renderCursor(event.position);
  },
  leaveHandler: () => { by("cursor").textContent = ""; },
});
if (shown.keeps_regions) {
  fetchJson(`${api}/regions`).then((content) => { regions.addGeoJson(content, shown.origin); areKept = true; })
    .catch(() => { by("regions-said").textContent = "The regions in the file could not be read."; });
}
// What is finished may be replaced all the same.
const follows = async () => {
  await poll(); await look();
  setTimeout(follows, shown.is_live ? 700 : shown.state.finished && otherFinished ? 5_000 : 2000);
};
setTimeout(follows, shown.state.finished && !wish.other ? 5_000 : 700);
