// Small things that both pages need: elements without HTML in strings, requests, words for amounts.

export function element(tag, properties = {}, children = []) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") Object.assign(made.style, value);
    else if (name.startsWith("aria-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export async function fetchJson(address, options = {}) {
  const answer = await fetch(address, { cache: "no-store", ...options });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

export function areaText(mm2) {
  if (mm2 >= 1e-3 || mm2 === 0) return `${Number(mm2.toPrecision(4))} mm²`;
  return `${Number((mm2 * 1e6).toPrecision(4))} µm²`;
}

export function lengthText(um) {
  return um >= 1000 ? `${Number((um / 1000).toPrecision(3))} mm` : `${Number(um.toPrecision(3))} µm`;
}

// 1, 2 or 5 times a power of ten, at most `most`.
export function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((step) => step * power).find((length) => length <= most) ?? power;
}
