"""One obvious oracle per kernel, in plain Python and NumPy; slow, float64, no shared code with the kernels."""

from fractions import Fraction

import numpy as np
from scipy import ndimage


def quantise(probabilities):
    return np.clip(np.rint(probabilities.astype(np.float64) * 65535), 0, 65535).astype(np.uint16)


def accumulate(canvas, tile, weights_y, weights_x, y, x):
    n_classes, height, width = tile.shape
    for c in range(n_classes):
        for i in range(height):
            for j in range(width):
                if 0 <= y + i < canvas.shape[1] and 0 <= x + j < canvas.shape[2]:
                    canvas[c, y + i, x + j] += int(tile[c, i, j]) * int(weights_y[i]) * int(weights_x[j])


def probabilities_uint8(canvas):
    exact = [Fraction(int(value), 65535 * 65536) * 255 + Fraction(1, 2) for value in canvas.ravel()]
    return np.array([value.__floor__() for value in exact], np.uint8).reshape(canvas.shape)


def count_labels(labels, n):
    return np.array([(labels == label).sum() for label in range(n)], np.int64)


def squares(array):
    """(rows, columns) slices of each 2 x 2 and the index of its output pixel."""
    for i in range(0, array.shape[-2], 2):
        for j in range(0, array.shape[-1], 2):
            yield (i // 2, j // 2), (slice(i, i + 2), slice(j, j + 2))


def halved(array):
    return (*array.shape[:-2], -(-array.shape[-2] // 2), -(-array.shape[-1] // 2))


def halve_majority(labels, ignore):
    out = np.empty(halved(labels), labels.dtype)
    for pixel, square in squares(labels):
        values = [int(value) for value in labels[square].ravel() if value != ignore]
        out[pixel] = min(values, key=lambda value: (-values.count(value), value)) if values else ignore
    return out


def halve_mean(probabilities, labels, ignore):
    out = np.zeros(halved(probabilities), np.uint8)
    for c, plane in enumerate(probabilities):
        for pixel, square in squares(labels):
            values = [int(value) for value in plane[square][labels[square] != ignore]]
            if values:
                out[c][pixel] = (Fraction(sum(values), len(values)) + Fraction(1, 2)).__floor__()
    return out


def area_mean(source, origin, factor, box):
    """Exact area means as float64 (oh, ow, 3), before rounding; exact factors as Fractions."""
    rows = [_footprint(y, factor[0], origin[0], source.shape[0]) for y in range(box[0], box[2])]
    columns = [_footprint(x, factor[1], origin[1], source.shape[1]) for x in range(box[1], box[3])]
    return np.einsum("yr,xc,rck->yxk", np.array(rows), np.array(columns), source.astype(np.float64))


def _footprint(index, factor, origin, size):
    low, high = index * factor, (index + 1) * factor
    pixels = range(origin, origin + size)
    return [float(max(0, min(high, pixel + 1) - max(low, pixel)) / factor) for pixel in pixels]


def otsu_threshold(histogram):
    """Compare every cut by its between-class variance, exactly."""
    counts = [int(count) for count in histogram]
    best, threshold = Fraction(-1), 0
    for cut in range(256):
        low, high = sum(counts[: cut + 1]), sum(counts[cut + 1 :])
        if low and high:
            mean_low = Fraction(sum(value * counts[value] for value in range(cut + 1)), low)
            mean_high = Fraction(sum(value * counts[value] for value in range(cut + 1, 256)), high)
            between = low * high * (mean_low - mean_high) ** 2
            if between > best:
                best, threshold = between, cut
    return threshold if best >= 0 else max((value for value in range(256) if counts[value]), default=0)


def pack_nhwc(batch, scale, shift, reverse):
    pixels = batch[..., ::-1] if reverse else batch
    return pixels.astype(np.float32) * scale + shift


def fill_polygons(rings, box):
    y0, x0, y1, x1 = box
    inside = np.zeros((y1 - y0, x1 - x0), bool)
    for i, j in np.ndindex(inside.shape):
        inside[i, j] = sum(_crossings(ring, y0 + i + 0.5, x0 + j + 0.5) for ring in rings) % 2 == 1
    return inside


def _crossings(ring, y, x):
    """Edges that a ray from (y, x) towards smaller x meets; exact."""
    n = 0
    for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        (ya, xa), (yb, xb) = sorted([(Fraction(a[0]), Fraction(a[1])), (Fraction(b[0]), Fraction(b[1]))])
        if ya <= Fraction(y) < yb:
            n += xa + (Fraction(y) - ya) * (xb - xa) / (yb - ya) <= Fraction(x)
    return n


def components(mask, structure):
    """(px count, longer side, rows, columns, px coordinates) of each component, as scipy finds them."""
    found, _ = ndimage.label(mask, structure)
    for number, (y, x) in enumerate(ndimage.find_objects(found), 1):
        rows, columns = np.nonzero(found[y, x] == number)
        yield len(rows), max(y.stop - y.start, x.stop - x.start), y, x, (rows + y.start, columns + x.start)


def remove_small(labels, limits, windows):
    """Every object by itself; then votes, side by side."""
    n = len(limits)
    small = np.zeros(labels.shape, bool)
    objects = []
    for index in range(1 if not limits[0] else 0, n):
        for area, side, _, _, place in components(labels == index, np.ones((3, 3))):
            if area < limits[index] and side <= windows[index]:
                small[place] = True
                objects.append(place)
    out = labels.copy()
    for place in objects:
        votes = [0] * n
        for i, j in zip(*place, strict=True):
            for y, x in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                inside = 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]
                if inside and not small[y, x] and labels[y, x] < n:
                    votes[labels[y, x]] += 1
        out[place] = votes.index(max(votes))
    return out


def fill_holes(labels, limits, windows, closed):
    """Every component of what is not the class; larger holes painted later."""
    height, width = labels.shape
    holes = []
    for index, (limit, window) in enumerate(zip(limits, windows, strict=True)):
        if not limit or not (labels == index).any():
            continue
        for area, side, y, x, place in components(labels != index, None):
            at_edge = (y.start == 0, x.start == 0, y.stop == height, x.stop == width)
            outside = any(at and shut for at, shut in zip(at_edge, closed, strict=True))
            if area < limit and side <= window and not outside and (labels[place] < len(limits)).all():
                holes.append((area, -index, place))
    out = labels.copy()
    for _, index, place in sorted(holes, key=lambda hole: hole[:2]):
        out[place] = -index
    return out


def mean_field(priors, pixels, valid, shape):
    """Float64, px by px over a window."""
    n, height, width = priors.shape
    start = np.where(valid, np.maximum(priors.astype(np.float64), 2.0**-17), 0)
    q = start / np.where(valid, start.sum(0), 1)
    reach = range(-shape.radius, shape.radius + 1)
    taps = [(y, x) for y in reach for x in reach if (y, x) != (0, 0)]
    near = {tap: np.exp(-(tap[0] ** 2 + tap[1] ** 2) / (2 * (shape.radius / 2) ** 2)) for tap in taps}
    colours = pixels.astype(np.float64)
    for _ in range(shape.iterations):
        after = np.zeros_like(q)
        for i, j in zip(*np.nonzero(valid), strict=True):
            heard = np.zeros(n)
            for (dy, dx), share in near.items():
                y, x = i + dy, j + dx
                if 0 <= y < height and 0 <= x < width and valid[y, x]:
                    distance = ((colours[i, j] - colours[y, x]) ** 2).sum()
                    k = np.rint(255 * share * np.exp(-distance / (2 * shape.colour**2))) / 255
                    heard += k * q[:, y, x]
            value = start[:, i, j] * np.exp(shape.weight * heard / sum(near.values()))
            after[:, i, j] = value / value.sum()
        q = after
    return q


def label_regions(labels, above, above_ids, wanted, diagonal):
    """Flood every region, the row above included; its ids hold together what they name."""
    rows = np.vstack([above, labels])
    old = np.vstack([above_ids, np.zeros_like(labels, np.int32)])
    ids = np.zeros(rows.shape, np.int64)
    reach = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if diagonal or 0 in (y, x)]
    for start in np.argwhere(wanted[rows]):
        if ids[tuple(start)] or (start[0] == 0 and not old[tuple(start)]):
            continue
        number, waiting = ids.max() + 1, [tuple(start)]
        while waiting:
            i, j = waiting.pop()
            if ids[i, j]:
                continue
            ids[i, j] = number
            waiting += [tuple(p) for p in np.argwhere(old == old[i, j])] if old[i, j] else []
            for y, x in reach:
                p = i + y, j + x
                inside = 0 <= p[0] < rows.shape[0] and 0 <= p[1] < rows.shape[1]
                if inside and rows[p] == rows[i, j] and (p[0] > 0 or old[p]):
                    waiting.append(p)
    return ids


def count_regions(labels, ids, above_ids, y0, chances):
    """Per region: label, first, px, sums, box, sides and sum of chances, as `Count` lists them."""
    width = ids.shape[1]
    found = {}
    for k in sorted(set(ids.ravel()) | set(above_ids)):
        y, x = np.nonzero(ids == k)
        around = np.pad(np.vstack([above_ids, ids]) == k, ((0, 0), (1, 1)))
        level = int((around[1:] != around[:-1]).sum())
        upright = int((around[1:, 1:] != around[1:, :-1]).sum())
        if len(y):
            index = (y + y0) * width + x
            box = y.min() + y0, x.min(), y.max() + y0 + 1, x.max() + 1
            sums = len(y), (y + y0).sum(), x.sum()
            found[k] = (labels[ids == k][0], index.min(), *sums, *box, level, upright, chances[ids == k].sum(dtype=int))
        else:
            found[k] = (level, upright)
    return found


def sides(labels, above, wanted):
    """Directed sides of pixels, clockwise, as (label, from, to): all of the band's but those along its lower border."""
    rows = np.pad(np.vstack([above, labels]).astype(int), 1, constant_values=-1)
    found = set()
    for i in range(len(labels) + 1):  # 0: the row above
        for j in range(labels.shape[1]):
            label = rows[i + 1, j + 1]
            if not wanted[label]:
                continue
            y = i - 1
            around = {
                (-1, 0): ((y, j), (y, j + 1)),
                (0, 1): ((y, j + 1), (y + 1, j + 1)),
                (1, 0): ((y + 1, j + 1), (y + 1, j)),
                (0, -1): ((y + 1, j), (y, j)),
            }
            for (down, right), (a, b) in around.items():
                in_band = (y >= 0 and down == 0) or (down and 0 <= a[0] < len(labels))
                if in_band and rows[i + 1 + down, j + 1 + right] != label:
                    found.add((label, a, b))
    return found
