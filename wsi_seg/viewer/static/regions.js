// Polygons drawn over the slide: kept in level-0 px (x, y), written as GeoJSON the way QuPath does.

export class Regions {
  constructor(canvas, toScreen, changed) {
    this.canvas = canvas;
    this.toScreen = toScreen; // level-0 (x, y) -> px of the canvas' element
    this.changed = changed;
    this.list = []; // { rings: [[[x, y], …]], name, colour }
    this.open = null; // points of the polygon being drawn
    this.pointer = null;
  }

  begin(name, colour) { this.open = { rings: [[]], name, colour }; this.draw(); }

  addPoint(x, y) { this.open?.rings[0].push([x, y]); this.draw(); }

  takeBack() { this.open?.rings[0].pop(); this.draw(); }

  giveUp() { this.open = null; this.draw(); }

  // True where a polygon of three different points or more was closed.
  close() {
    const open = this.open;
    this.open = null;
    const ring = (open?.rings[0] ?? []).filter((point, n, all) => n === 0 || point[0] !== all[n - 1][0] || point[1] !== all[n - 1][1]);
    if (ring.length >= 3) {
      this.list.push({ ...open, rings: [ring] });
      this.changed();
    }
    this.draw();
    return ring.length >= 3;
  }

  remove(index) { this.list.splice(index, 1); this.changed(); this.draw(); }

  // Coordinates of GeoJSON are counted from the corner of the scanned bounds, `origin` as (y, x).
  toGeoJson([y0, x0]) {
    const features = this.list.map((region) => ({
      type: "Feature",
      geometry: { type: "Polygon", coordinates: region.rings.map((ring) => [...ring, ring[0]].map(([x, y]) => [x - x0, y - y0])) },
      ...(region.kept?.id === undefined ? {} : { id: region.kept.id }),
      properties: {
        objectType: "annotation",
        ...region.kept?.properties, // what others have written there, name and all
        ...(region.name ? { classification: { ...region.kept?.properties.classification, name: region.name, color: rgb(region.colour) } } : {}),
      },
    }));
    return { type: "FeatureCollection", features };
  }

  addGeoJson(content, [y0, x0]) {
    const found = [];
    const features = content.type === "FeatureCollection" ? content.features : Array.isArray(content) ? content : [content];
    for (const feature of features) {
      const geometry = feature.geometry ?? feature;
      const polygons = polygonsOf(geometry);
      const named = feature.properties?.classification;
      for (const rings of polygons) {
        found.push({
          rings: rings.map((ring) => opened(ring).map(([x, y]) => [x + x0, y + y0])),
          name: named?.name ?? "", colour: hex(named?.color),
          kept: { properties: feature.properties ?? {}, ...(polygons.length === 1 && feature.id !== undefined ? { id: feature.id } : {}) },
        });
      }
    }
    this.list.push(...found); // all of a file, or nothing of it
    this.changed();
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const scale = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    for (const region of this.list) this.#draw(context, region, true);
    if (this.open) this.#draw(context, this.open, false);
  }

  #draw(context, region, closed) {
    context.beginPath();
    for (const ring of region.rings) {
      const points = ring.map(([x, y]) => this.toScreen(x, y));
      if (!closed && this.pointer) points.push(this.pointer);
      points.forEach(([x, y], n) => (n ? context.lineTo(x, y) : context.moveTo(x, y)));
      if (closed) context.closePath();
    }
    context.lineWidth = 4; context.strokeStyle = "#fffc"; context.stroke();
    context.lineWidth = 2; context.strokeStyle = region.colour || "#000"; context.stroke();
  }
}

function polygonsOf(geometry) {
  if (geometry.type === "Polygon") return [geometry.coordinates];
  if (geometry.type === "MultiPolygon") return geometry.coordinates;
  if (geometry.type === "GeometryCollection") return geometry.geometries.flatMap(polygonsOf);
  throw new Error(`a ${geometry.type}: regions are polygons`);
}

// A ring without the point that closes it, where it has one.
function opened(ring) {
  const [first, last] = [ring[0], ring[ring.length - 1]];
  return first[0] === last[0] && first[1] === last[1] ? ring.slice(0, -1) : ring;
}

function rgb(colour) {
  return [1, 3, 5].map((at) => parseInt((colour || "#000000").slice(at, at + 2), 16));
}

function hex(colour) {
  if (!Array.isArray(colour)) return "#000000";
  return "#" + colour.slice(0, 3).map((value) => Math.min(255, Math.max(0, Math.round(Number(value)) || 0)).toString(16).padStart(2, "0")).join("");
}
