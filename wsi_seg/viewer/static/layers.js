// The layers of one pane. All of them lie on the grid of the slide's level 0, so none can be shifted against another.

const TILE = 512;
const OVERLAP = 1; // both as in grid.py

const ORDER = ["slide", "labels", "heat", "difference"]; // from below

export class Layers {
  constructor(osd, shown) {
    this.osd = osd;
    this.shown = shown;
    this.items = {}; // layer -> TiledImage, the newest
    this.older = {}; // layer -> TiledImages before it: the first is drawn, until one that came later is here
    this.coming = 0; // layers asked for that are not here yet
    this.wanted = {}; // layer -> { address, opacity }
  }

  // A layer with tiles at `address(level, row, column)`; what was there before stays until the new tiles are here.
  set(layer, key, address, opacity) {
    const before = this.wanted[layer];
    this.wanted[layer] = { key, opacity };
    if (before?.key === key) {
      this.setOpacity(layer, opacity);
      return;
    }
    const [height, width] = this.shown.size;
    const most = this.shown.max_level;
    const source = {
      width, height, tileSize: TILE, tileOverlap: OVERLAP, minLevel: Math.min(8, most), maxLevel: most,
      getTileUrl: (level, x, y) => address(level, y, x),
      hasTransparency: () => layer !== "slide",
    };
    this.coming += 1;
    this.osd.addTiledImage({
      tileSource: source, x: 0, y: 0, width: 1, opacity, index: this.#ordered(layer).length,
      success: ({ item }) => { this.coming -= 1; this.#arrived(layer, key, item); },
    });
  }

  // Whether something that is drawn is to be replaced.
  get changing() { return this.coming > 0 || Object.values(this.older).some((items) => items.length); }

  remove(layer) {
    delete this.wanted[layer];
    const item = this.items[layer];
    delete this.items[layer];
    if (item) this.osd.world.removeItem(item);
    this.#dropOlder(layer);
  }

  // All that came before one, not only the last: of three in a row the third may be here before the second.
  #dropOlder(layer, than = this.items[layer]) {
    const older = this.older[layer] ?? [];
    const n = older.includes(than) ? older.indexOf(than) : older.length;
    for (const item of older.splice(0, n)) {
      if (this.osd.world.getIndexOfItem(item) >= 0) this.osd.world.removeItem(item);
    }
  }

  setOpacity(layer, opacity) {
    if (this.wanted[layer]) this.wanted[layer].opacity = opacity;
    const drawn = this.older[layer]?.[0] ?? this.items[layer]; // only one at a time
    drawn?.setOpacity(opacity);
  }

  #arrived(layer, key, item) {
    const wanted = this.wanted[layer];
    if (!wanted || wanted.key !== key) { // something else was asked for in the meantime
      this.osd.world.removeItem(item);
      return;
    }
    const before = this.items[layer];
    this.items[layer] = item;
    if (before) (this.older[layer] ??= []).push(before);
    this.#sort();
    if (!before) { item.setOpacity(wanted.opacity); return; }
    // Both at once would be twice as strong: the new one is drawn once all of it is here.
    item.setOpacity(0.001);
    item.setPreload(true);
    const swap = () => {
      if (this.items[layer] !== item && !this.older[layer].includes(item)) return; // a newer one is drawn, or none
      item.setOpacity(this.wanted[layer].opacity);
      this.#dropOlder(layer, item);
    };
    let done = false;
    const once = () => { if (!done) { done = true; swap(); } };
    if (item.getFullyLoaded()) once();
    else {
      item.addHandler("fully-loaded-change", ({ fullyLoaded }) => { if (fullyLoaded) once(); });
      setTimeout(once, 4000);
    }
  }

  // Items from the lowest to the highest; an older one lies under what comes in its place.
  #ordered(upTo = ORDER.at(-1)) {
    const layers = ORDER.slice(0, ORDER.indexOf(upTo) + 1);
    const items = layers.flatMap((layer) => [...(this.older[layer] ?? []), this.items[layer]]);
    return items.filter((item) => item && this.osd.world.getIndexOfItem(item) >= 0);
  }

  // Moves only what lies wrong: OpenSeadragon 6.1.1 fails on moves of what its navigator has not taken in yet.
  #sort() {
    this.#ordered().forEach((item, index) => {
      if (this.osd.world.getIndexOfItem(item) !== index) this.osd.world.setItemIndex(item, index);
    });
  }
}
