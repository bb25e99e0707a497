"""The default model `nuclei` against classical baselines on groups it never saw: `python -m benchmarks.nuclei STEP`.

* prepare: write the object numbers of the spleen images (`resolve_overlaps`) and the painted images; once.
* compare: train the recipe with each group held out, several seeds; print the table of Dice and object F1.
* score MODEL: Dice and object F1 of one model on every group, without training.
* int8: export the models of `compare` to int8, calibrated on the slides of --calibrate; the table of both precisions
  on the groups that neither training nor calibration saw.

Protocol, the same for all methods: 0.5 um/px; holes filled, components by edges, those below `MIN_PX` dropped; Dice of
the foreground and F1 of objects at IoU > 0.5, per image, then the mean over images. Vague areas are left out.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from benchmarks.measure import INPUTS, table
from benchmarks.nuclei_eosin import paint
from benchmarks.nuclei_negatives import write_negatives
from wsi_seg.annotation.pixel_files import read_index
from wsi_seg.evaluate.objects import object_scores, objects_of
from wsi_seg.export import ExportRequest, export_model
from wsi_seg.geometry import Box
from wsi_seg.infer import ModelSpec, load_predictor
from wsi_seg.model.he_stain import unmixing_matrix
from wsi_seg.train.config import ImageSource, TrainConfig, read_config
from wsi_seg.train.source.image_source import PixelCache, centre_px, open_images, scale_factor

RECIPE = Path(__file__).parent / "recipes" / "nuclei.yaml"
FOLDS = {
    "spleen": ("spleen",),
    "purple": ("purple-fine", "purple-coarse", "pink", "purple-eosin"),
    "smear": ("smear", "smear-eosin"),
}
"""Held out together -> groups of the tables of images; those named `-eosin` are painted and never scored."""
NEGATIVES = "negatives"
"""The source without a table: what surely is no nucleus, part of no fold."""
N_PAINTED = 3
"""Painted versions of an image."""
MIN_PX = 30
"""Objects below 7.5 um² are no nuclei: pieces at the edges of images, and specks."""

Mask = NDArray[np.bool_]
Ids = NDArray[np.integer]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Case:
    """An image at 0.5 um/px with its reference."""

    name: str
    group: str
    pixels: Pixels
    objects: Ids
    """Nuclei by number, 0 background."""
    scored: Mask


@dataclass(frozen=True, slots=True)
class Score:
    """Of one image."""

    dice: float
    f1: float


def resolve_overlaps(objects: Ids) -> Ids:
    """Objects of one number each, from labels that add up the numbers where objects overlap.

    NuInsSeg draws ellipses that overlap, and a px in several carries the sum of their numbers: lenses that would count
    as nuclei. A component whose number is the sum of two or three neighbours' is divided among them by distance.
    """
    components, owner = _components(objects)
    lenses = {number: parts for number in range(1, len(owner)) if (parts := _owners(components, owner, number))}
    resolved = np.where(np.isin(components, list(lenses)), 0, components)
    for number, parts in lenses.items():
        y, x = _around(components == number, 40)
        apart = np.stack([ndimage.distance_transform_edt(components[y, x] != part) for part in parts])
        lens = components[y, x] == number
        resolved[y, x][lens] = np.array(parts)[apart.argmin(axis=0)][lens]
    return resolved


def _components(objects: Ids) -> tuple[NDArray[np.int64], list[int]]:
    """Connected px of equal number, numbered anew, and the number that each had."""
    components, owner = np.zeros(objects.shape, np.int64), [0]
    for number in np.unique(objects[objects > 0]):
        found, n = ndimage.label(objects == number)
        components[found > 0] = found[found > 0] + len(owner) - 1
        owner += [int(number)] * n
    return components, owner


def _owners(components: NDArray[np.int64], owner: list[int], number: int) -> tuple[int, ...]:
    """The neighbours whose numbers add up to that of a component; none where it is an object of its own."""
    y, x = _around(components == number, 2)
    near = components[y, x]
    beside = [int(n) for n in np.unique(near[ndimage.binary_dilation(near == number)]) if n not in (0, number)]
    for size in (2, 3):
        for parts in itertools.combinations(beside, size):
            if sum(owner[part] for part in parts) == owner[number]:
                return parts
    return ()


def _around(mask: Mask, margin: int) -> tuple[slice, slice]:
    y, x = ndimage.find_objects(mask.astype(np.int8))[0]
    return slice(max(0, y.start - margin), y.stop + margin), slice(max(0, x.start - margin), x.stop + margin)


def prepare(config: TrainConfig) -> None:
    """Write what the recipe reads and the data does not hold: numbers of the spleen's objects, painted images."""
    sources = {_group(source): source for source in _images(config)}
    spleen = sources["spleen"]
    assert spleen.labels is not None
    assert spleen.images is not None
    spleen.labels.mkdir(parents=True, exist_ok=True)
    for path in sorted((spleen.images.parent / "label masks").iterdir()):
        _write(resolve_overlaps(read_index(path)), spleen.labels / f"{path.stem}.png")
    rows = []
    for group, of in (("purple-eosin", ("purple-fine", "purple-coarse")), ("smear-eosin", ("smear",))):
        rows += [f"{stem},{group}" for stem in _painted(sources[group], read_cases(config, of))]
    table_path = sources["smear-eosin"].table
    assert table_path is not None
    table_path.write_text("\n".join(["stem,group", *rows, ""]))
    negatives = sources[NEGATIVES].images
    assert negatives is not None
    write_negatives(spleen.images.parents[1] / "ebhi-seg", negatives.parent)


def _painted(source: ImageSource, cases: Sequence[Case]) -> list[str]:
    """Write painted versions of some images; their stems."""
    assert source.labels is not None
    assert source.images is not None
    stems = []
    for folder in (source.images, source.labels):
        folder.mkdir(parents=True, exist_ok=True)
    for case, version in itertools.product(cases, range(N_PAINTED)):
        stems.append(f"{case.name}-{version}")
        random = np.random.default_rng([int(case.name[:8], 16), version])
        Image.fromarray(paint(case.pixels, case.objects > 0, random)).save(source.images / f"{stems[-1]}.png")
        _write(case.objects, source.labels / f"{stems[-1]}.png")
    return stems


def _write(objects: Ids, path: Path) -> None:
    Image.fromarray(objects.astype(np.uint16)).save(path)


def read_cases(config: TrainConfig, groups: Sequence[str]) -> list[Case]:
    """The images of some groups with their references, as training sees them but for the gaps."""
    cases = []
    for source in _images(config):
        if (group := _group(source)) not in groups:
            continue
        for field in open_images(source, config, PixelCache(), labelled=True):
            pixels, encoded = field.read(Box(0, 0, *field.size))
            assert source.labels is not None
            stored = read_index(source.labels / f"{field.name}.png")
            factor = scale_factor((stored.shape[0], stored.shape[1]), source.mpp or config.mpp, config.mpp)
            objects = stored[np.ix_(*map(centre_px, stored.shape, factor))]
            ignored = encoded == 255
            kept = np.bincount(objects.ravel()) >= MIN_PX
            cases.append(Case(field.name, group, pixels, objects * kept[objects], kept[objects] & ~ignored))
    return cases


def _group(source: ImageSource) -> str:
    return source.where.get("group", NEGATIVES)


def _images(config: TrainConfig) -> list[ImageSource]:
    return [source for source in config.data.train if isinstance(source, ImageSource)]


def nuclei_of(mask: Mask) -> Ids:
    """Objects of a mask by the protocol."""
    return without_specks(objects_of(ndimage.binary_fill_holes(mask), connectivity=4))


def without_specks(objects: Ids) -> Ids:
    """Objects of `MIN_PX` and more."""
    kept = np.bincount(objects.ravel()) >= MIN_PX
    return objects * kept[objects]


def score(objects: Ids, case: Case) -> Score:
    """Of predicted objects."""
    predicted, reference = ((ids > 0) & case.scored for ids in (objects, case.objects))
    total = int(predicted.sum() + reference.sum())
    dice = 2 * int((predicted & reference).sum()) / total if total else 1.0
    found = object_scores(objects, case.objects, scored=case.scored)
    return Score(dice, found.f1 if found.n_predicted + found.n_reference else 1.0)


Method = Callable[[Pixels], Ids]


def model_method(model: str, precision: str = "fp32") -> Method:
    """Objects that a model finds: the class called nuclei, by the largest probability."""
    predictor = load_predictor(ModelSpec(model=model, precision=precision))
    index = [entry.name for entry in predictor.card.classes].index("nuclei")
    side = predictor.card.tile_size

    def find(pixels: Pixels) -> Ids:
        before = [(side - n) // 2 // 16 * 16 for n in pixels.shape[:2]]
        around = [(b, side - n - b) for b, n in zip(before, pixels.shape[:2], strict=True)]
        tile = np.pad(pixels, (*around, (0, 0)), mode="symmetric")
        labels = predictor.predict(tile[None])[0].argmax(axis=0)
        return nuclei_of(labels[before[0] :, before[1] :][: pixels.shape[0], : pixels.shape[1]] == index)

    return find


@dataclass(frozen=True, slots=True)
class Otsu:
    """Otsu's threshold per image on the haematoxylin channel: the classical baseline, with its choices."""

    sigma: float
    """Of the Gaussian before the threshold, px."""
    opening: int
    """Radius of the opening after it, px."""
    parting: float
    """Sigma, px, that smooths the distance map of a watershed; 0: connected components."""

    def __call__(self, pixels: Pixels) -> Ids:
        stain = -np.log((pixels.astype(np.float64) + 1) / 256) @ unmixing_matrix()[:, 0]
        stain = ndimage.gaussian_filter(stain, self.sigma)
        mask = stain > otsu_threshold(stain)
        if self.opening:
            y, x = np.mgrid[-self.opening : self.opening + 1, -self.opening : self.opening + 1]
            mask = ndimage.binary_opening(mask, x * x + y * y <= self.opening**2)
        return (
            without_specks(_parted(ndimage.binary_fill_holes(mask), self.parting)) if self.parting else nuclei_of(mask)
        )


OTSU_CHOICES = [
    Otsu(sigma, opening, parting) for sigma in (0.5, 1, 1.5) for opening in (0, 1, 2) for parting in (0, 1.5, 3)
]


def otsu_threshold(values: NDArray[np.float64]) -> float:
    """The threshold that parts a histogram of 256 bins best (Otsu 1979, doi:10.1109/TSMC.1979.4310076)."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts)[:-1], np.cumsum(counts * centres)[:-1]
    n, total = counts.sum(), (counts * centres).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total * below / n - sums) ** 2 / (below * (n - below))
    return float(centres[np.nanargmax(between)])


def _parted(mask: Mask, sigma: float) -> Ids:
    """Watershed of the smoothed distance map: every px goes to the maximum that the steepest way up leads to."""
    height = np.pad(ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), sigma), 1)
    inside = np.pad(mask, 1)
    height[~inside] = -1
    here = np.arange(height.size).reshape(height.shape)
    highest, up = height.copy(), here.copy()
    for y, x in itertools.product((-1, 0, 1), repeat=2):
        beside, to = np.roll(height, (y, x), (0, 1)), np.roll(here, (y, x), (0, 1))
        up = np.where(beside > highest, to, up)
        highest = np.maximum(highest, beside)
    top = up.ravel()
    while not np.array_equal(top, top[top]):
        top = top[top]
    found = np.unique(top.reshape(height.shape), return_inverse=True)[1].reshape(height.shape) + 1
    return (found * inside)[1:-1, 1:-1]


def held_out(config: TrainConfig, fold: str, seed: int) -> TrainConfig:
    """The recipe without the groups of a fold."""
    sources = [source for source in _images(config) if _group(source) not in FOLDS[fold]]
    return config.model_copy(update={"data": config.data.model_copy(update={"train": sources}), "seed": seed})


def scored(fold: str) -> list[str]:
    """The groups of a fold that are photographs."""
    return [group for group in FOLDS[fold] if not group.endswith("-eosin")]


def means(scores: Sequence[Score]) -> tuple[float, float]:
    """(Dice, F1) over images."""
    return fmean(s.dice for s in scores), fmean(s.f1 for s in scores)


def baselines(cases: Sequence[Case]) -> dict[str, tuple[float, float]]:
    """(Dice, F1) of `he-stain` and of Otsu with the choices that suit these very images best: nothing is held out."""
    stain = model_method("he-stain")
    found = {choice: means([score(choice(case.pixels), case) for case in cases]) for choice in OTSU_CHOICES}
    best = max(found, key=lambda choice: sum(found[choice]))
    plain = max((choice for choice in found if not choice.parting), key=lambda choice: sum(found[choice]))
    return {
        "he-stain": means([score(stain(case.pixels), case) for case in cases]),
        f"Otsu, {_told(plain)}": found[plain],
        f"Otsu, {_told(best)}": found[best],
    }


def _told(choice: Otsu) -> str:
    parts = f"watershed {choice.parting:g}" if choice.parting else "components"
    return f"sigma {choice.sigma:g}, opening {choice.opening}, {parts}"


def trained(config: TrainConfig, out: Path) -> Path:
    """The run folder of a configuration; trained where it is not there yet, so that a comparison can be resumed."""
    from wsi_seg.train.loop import train

    return train(config, out).path


def compare(config: TrainConfig, folds: Sequence[str], seeds: Sequence[int], out: Path) -> str:
    """Every fold held out, every seed; a table of Dice and F1 per held-out group."""
    rows: list[tuple[str, ...]] = []
    for fold in folds:
        models = [trained(held_out(config, fold, seed), out / f"{fold}-{seed}") for seed in seeds]
        methods = [model_method(str(model)) for model in models]
        for group in scored(fold):
            cases = read_cases(config, [group])
            rows += _rows(group, cases, methods)
    title = (
        f"nuclei: each fold held out, {len(seeds)} seed(s), {config.epochs} epochs of {config.data.patches_per_epoch}"
    )
    return table(title, ("held out", "images", "method", "Dice", "object F1"), rows)


def _rows(group: str, cases: Sequence[Case], methods: Sequence[Method]) -> list[tuple[str, ...]]:
    found = [means([score(method(case.pixels), case) for case in cases]) for method in methods]
    rows: list[tuple[str, ...]] = [(group, str(len(cases)), "**nuclei**", *map(_spread, zip(*found, strict=True)))]
    for name, (dice, f1) in baselines(cases).items():
        rows.append((group, str(len(cases)), name, f"{dice:.3f}", f"{f1:.3f}"))
    return rows


def compare_int8(config: TrainConfig, folds: Sequence[str], slides: Sequence[Path], runs: Sequence[Path]) -> str:
    """Every run's fp32 and int8 program on its held-out groups; Dice and F1 over the images of all runs of a fold."""
    rows: list[tuple[str, ...]] = []
    for fold in folds:
        models = [run for run in runs if run.name.startswith(fold)]
        for model in models:
            request = ExportRequest(str(model), precision="int8", slides=tuple(slides), overwrite=True)
            report = export_model(request)
            worst = max(v.agreement.worst_dice_loss for v in report.verdicts if v.agreement is not None)
            print(f"{model.name}: {len(report.kept)} layers in float, expected Dice loss {worst:.4f}", flush=True)
        for group in scored(fold):
            cases = read_cases(config, [group])
            found = {
                precision: [
                    means([score(method(case.pixels), case) for case in cases])
                    for method in (model_method(str(model), precision) for model in models)
                ]
                for precision in ("fp32", "int8")
            }
            lost = [a[0] - b[0] for a, b in zip(found["fp32"], found["int8"], strict=True)]
            dice, f1 = ([fmean(pair[i] for pair in found[p]) for p in ("fp32", "int8")] for i in (0, 1))
            figures = (f"{dice[0]:.4f}", f"{dice[1]:.4f}", f"{max(lost):+.4f}", f"{f1[0]:.4f}", f"{f1[1]:.4f}")
            rows.append((group, str(len(cases)), str(len(models)), *figures))
    header = ("held out", "images", "models", "Dice fp32", "Dice int8", "largest loss", "F1 fp32", "F1 int8")
    return table("nuclei in int8 against fp32", header, rows)


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    return f"**{fmean(values):.3f}**" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "compare", "score", "int8"))
    parser.add_argument("model", nargs="?", default="nuclei", help="score: any model with a class called nuclei")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--folds", nargs="+", choices=FOLDS, default=list(FOLDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two short epochs: proves that it runs, no more")
    parser.add_argument("--out", type=Path, default=INPUTS / "nuclei", help="run folders; finished ones are used again")
    parser.add_argument("--set", action="append", default=[], dest="changes", help="key=value over the recipe")
    parser.add_argument("--calibrate", type=Path, nargs="+", default=[], help="int8: slides")
    asked = parser.parse_args()
    quick = ["epochs=2", "data.patches_per_epoch=24"] if asked.quick else []
    config = read_config(asked.recipe, quick + asked.changes)
    if asked.step == "prepare":
        prepare(config)
    elif asked.step == "score":
        method = model_method(asked.model)
        for group in itertools.chain(*map(scored, FOLDS)):
            cases = read_cases(config, [group])
            print(
                "{}: Dice {:.3f}, object F1 {:.3f}".format(group, *means([score(method(c.pixels), c) for c in cases]))
            )
    elif asked.step == "int8":
        runs = [asked.out / f"{fold}-{seed}" for fold in asked.folds for seed in range(asked.seeds)]
        print(compare_int8(config, asked.folds, asked.calibrate, runs))
    else:
        print(compare(config, asked.folds, range(asked.seeds), asked.out))


if __name__ == "__main__":
    main()
