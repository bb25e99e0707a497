"""The training configuration: every key, its meaning, its range and its default.

Owns the YAML form and its validation; `describe_keys` prints what is written here. Knows no torch, opens no slide.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic.fields import FieldInfo

from wsi_seg.errors import ConfigError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Range = tuple[Positive, Positive]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values are final."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageSource(Section):
    """Images with label images of the same size, each pair one field of view."""

    images: Path | None = Field(None, description="folder of images; with `labels`, pairs share their file stem")
    labels: Path | None = Field(None, description="folder of label images; absent: unlabelled images")
    table: Path | None = Field(
        None,
        description="CSV with columns image, label (paths relative to it), optional case and split; beside `images`: "
        "attributes of the images, whose file stems stand in its first column",
    )
    where: dict[str, str] = Field(default_factory=dict, description="rows of the table to use: column -> value")
    mpp: Positive | None = Field(None, description="µm per px of the images; absent: the model's")
    encoding: Literal["classes", "binary", "instances"] = Field(
        "classes",
        description="`classes`: px = class index, 255 ignored; `binary`: px >= 128 is class `value`; "
        "`instances`: px = object number, 0 background",
    )
    value: Count = Field(1, description="class of the foreground for `binary` and `instances`")
    value_column: str | None = Field(None, description="column of the table that names the class of the foreground")
    ignore: Path | None = Field(None, description="folder of masks, same stem; px > 0 are left out of loss and scores")
    case_pattern: str | None = Field(
        None, description="regular expression with one group on the file stem; what it finds is the case"
    )
    weight: Positive = Field(1.0, description="share of patches drawn from this source, relative to the others")

    @model_validator(mode="after")
    def _one_form(self) -> ImageSource:
        if self.images is None and self.table is None:
            raise ValueError("give `images` (a folder), `table` (a CSV) or both")
        if self.labels is not None and self.images is None:
            raise ValueError("`labels` is the folder beside `images`; a table names its labels in the column label")
        if self.where and self.table is None:
            raise ValueError("`where` chooses rows of a `table`")
        if self.value_column is not None and (self.table is None or self.encoding == "classes"):
            raise ValueError("`value_column` belongs to a table whose encoding is binary or instances")
        return self


class SlideSource(Section):
    """One annotated whole slide, or one without annotation where unlabelled data is asked for."""

    slide: Path = Field(description="any slide that `wsi-seg info` opens")
    annotation: Path | None = Field(
        None, description="GeoJSON (QuPath), ASAP XML, or a label TIFF/PNG/OME-Zarr over the whole slide"
    )
    mpp: Positive | None = Field(
        None, description="µm per px of level 0 where the slide does not say, or says it wrong"
    )
    names: dict[str, str] = Field(
        default_factory=dict, description="annotation class name -> name in `classes`, or `ignore`"
    )
    unannotated: str | None = Field(
        None, description="class of tissue outside every polygon; absent: ignored in loss and scores"
    )
    glass: str | None = Field(
        None,
        description="class of glass outside every polygon, or `ignore`; absent: as `unannotated`. Patches are drawn "
        "from tissue and show the glass beside it; scores leave it out",
    )
    case: str | None = Field(None, description="patient or case; absent: the file stem")
    weight: Positive = Field(1.0, description="share of patches drawn from this source, relative to the others")


def _form(source: object) -> str:
    """Which form a source has: that of a slide where the key `slide` is there, so that errors speak of one form."""
    return "slide" if isinstance(source, SlideSource) or (isinstance(source, dict) and "slide" in source) else "images"


Source = Annotated[Annotated[ImageSource, Tag("images")] | Annotated[SlideSource, Tag("slide")], Discriminator(_form)]


class DataConfig(Section):
    """Where patches come from."""

    train: list[Source] = Field(min_length=1, description="labelled sources to learn from")
    validation: list[Source] = Field(
        default_factory=list, description="labelled sources to choose the best epoch by; else a share of the cases"
    )
    validation_share: Share = Field(
        0.2, description="share of cases held out where `validation` is empty; by case, never by image"
    )
    balance: Share = Field(
        0.5, description="share of patches centred on a class drawn evenly; the rest anywhere in the annotated area"
    )
    patches_per_epoch: Count | None = Field(None, description="absent: as many as cover the annotated area once")
    workers: Annotated[int, Field(ge=0)] = Field(
        0, description="threads that read ahead; the order never depends on it"
    )


class ModelConfig(Section):
    """The network."""

    architecture: Literal["unet", "unet++", "swin-unet", "resnet-unet"] = Field(
        "unet", description="family of the network"
    )
    width: Count = Field(32, description="channels of the first stage; every stage doubles them")
    depth: Annotated[int, Field(ge=1, le=6)] = Field(4, description="number of down-samplings after the stem")
    stem_stride: Literal[1, 2, 4] = Field(1, description="down-sampling before the first stage; 2 costs a quarter")
    down: Literal["pool", "stride"] = Field("pool", description="max pooling, or convolutions of stride 2")
    up: Literal["transposed", "resize"] = Field(
        "resize", description="transposed convolution, or bilinear then 1x1 convolution"
    )
    separable: bool = Field(False, description="depthwise-separable convolutions throughout")
    resnet_layers: Literal[18, 34] = Field(18, description="resnet-unet: ResNet-18 or -34 as encoder")
    deep_supervision: bool = Field(False, description="unet++: a head at every depth, averaged in the loss, prunable")
    window: Count = Field(8, description="swin-unet: side of the attention window, in tokens")
    odd_sizes: Literal["pad", "overlap", "fit"] = Field(
        "pad", description="swin-unet, token grids no multiple of the window: pad, overlap windows, or fit the window"
    )
    position_encoding: bool = Field(False, description="swin-unet: add the resolution-aware sinusoidal encoding")
    dropout: Share = Field(0.0, description="dropout before the head")
    checkpointing: bool = Field(False, description="recompute every stage in the backward pass: less memory, more time")


class LossTerm(Section):
    """One addend of the loss on labelled pixels."""

    name: Literal["cross-entropy", "dice", "focal", "tversky", "boundary"] = Field(description="which")
    weight: Positive = Field(1.0, description="factor")
    class_weights: list[NotNegative] | None = Field(None, description="one factor per class")
    gamma: NotNegative = Field(2.0, description="focal: exponent on the wrong probability")
    alpha: Share = Field(0.3, description="tversky: weight of false positives")
    beta: Share = Field(0.7, description="tversky: weight of false negatives")
    boundary_weight: NotNegative = Field(5.0, description="boundary: extra weight of a pixel on a class border")
    boundary_sigma: Positive = Field(3.0, description="boundary: distance in px at which it has fallen to exp(-1/2)")
    gap_weight: NotNegative = Field(
        0.0, description="boundary: extra weight of the first class in gaps between objects, so that they come apart"
    )
    gap_radius: Count = Field(2, description="boundary: half the width of the widest gap, px")
    label_smoothing: Share = Field(0.0, description="cross-entropy: share of the target spread over all classes")


class OptimiserConfig(Section):
    """Steps and learning rates."""

    name: Literal["adamw", "sgd"] = Field("adamw", description="optimiser")
    lr: Positive = Field(1e-3, description="peak learning rate")
    weight_decay: NotNegative = Field(
        1e-4,
        description="adamw: decoupled decay, sgd: added to the gradient; not on biases and normalisations",
    )
    momentum: Share = Field(0.9, description="sgd: momentum (Nesterov)")
    schedule: Literal["cosine", "one-cycle", "constant"] = Field("cosine", description="learning rate over the run")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="cosine, constant: linear rise from zero")
    clip_norm: Positive | None = Field(1.0, description="largest norm of the gradient; absent: not clipped")
    accumulate: Count = Field(1, description="batches summed into one step")
    ema: Share = Field(
        0.0, description="decay of the moving average of the weights that is validated and exported; 0: off"
    )


class AugmentConfig(Section):
    """Random changes of a training batch. Every strength is a maximum; 0 switches it off."""

    flip: bool = Field(True, description="mirror in y and x, each half of the time")
    rotate90: bool = Field(True, description="quarter turns, evenly")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="free rotation, degrees to either side")
    scale: Range = Field((1.0, 1.0), description="zoom factor, log-uniform between the two")
    elastic: NotNegative = Field(0.0, description="largest displacement of a smooth random field, px")
    elastic_spacing: Positive = Field(32.0, description="px between the random displacements of `elastic`")
    grid: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.0, description="grid distortion: largest shift of a grid line, share of its spacing"
    )
    grid_lines: Count = Field(5, description="grid distortion: cells per side")
    gamma: Range = Field((1.0, 1.0), description="exponent on intensity, log-uniform between the two")
    brightness: NotNegative = Field(0.0, description="largest shift of all channels, in units of pixel / 255")
    contrast: NotNegative = Field(0.0, description="largest relative change of contrast")
    stain: NotNegative = Field(
        0.0, description="H&E jitter in optical density: largest relative change of each stain's amount"
    )
    stain_shift: NotNegative = Field(0.0, description="H&E jitter: largest amount added to each stain, optical density")
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(0.0, description="largest turn of the hue, share of the circle")
    saturation: NotNegative = Field(0.0, description="largest relative change of saturation")
    blur: NotNegative = Field(0.0, description="largest Gaussian sigma, px; half of the patches")
    noise: NotNegative = Field(0.0, description="largest standard deviation of Gaussian noise, in units of pixel / 255")
    dropout: Share = Field(
        0.0, description="coarse dropout: probability that a patch loses rectangles; labels there are ignored"
    )
    dropout_holes: Count = Field(4, description="coarse dropout: largest number of rectangles")
    dropout_size: Share = Field(0.2, description="coarse dropout: largest side, share of the patch")


class TransferConfig(Section):
    """Start from trained weights."""

    weights: Path = Field(
        description="safetensors, a run folder or a checkpoint of ours; loaded without unpickling code"
    )
    part: Literal["all", "encoder"] = Field(
        "all", description="which weights; a head of another size is left out and said"
    )
    unfreeze_every: Annotated[int, Field(ge=0)] = Field(
        0, description="epochs after which one more stage, from the head backwards, learns; 0: all from the start"
    )
    lr_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="learning rate factor per stage towards the input"
    )


class DistillConfig(Section):
    """Learn from a larger model too (Hinton et al. 2015, arXiv:1503.02531)."""

    teacher: Path = Field(description="run folder of the teacher")
    temperature: Positive = Field(2.0, description="T; the gradient is scaled by T²")
    weight: Share = Field(0.5, description="share of the soft loss; the rest is the loss on labels")


class SemiConfig(Section):
    """Learn from unlabelled images by consistency.

    Sohn et al. 2020, arXiv:2001.07685; mean teacher: Tarvainen and Valpola 2017, arXiv:1703.01780.
    """

    sources: list[Source] = Field(min_length=1, description="images or slides; their labels are not read")
    weight: NotNegative = Field(1.0, description="factor of the unlabelled loss at the end of the ramp")
    ramp_epochs: NotNegative = Field(5.0, description="epochs over which the factor rises as exp(-5 (1 - t)²)")
    confidence: Share = Field(0.9, description="pseudo-labels below it are ignored")
    mean_teacher: bool = Field(False, description="pseudo-labels from a moving average of the weights")
    teacher_decay: Share = Field(0.99, description="decay of that average")


class DomainConfig(Section):
    """Adapt to an unlabelled domain (Ganin et al. 2016, arXiv:1505.07818; Tsai et al. 2018, arXiv:1802.10349)."""

    sources: list[Source] = Field(min_length=1, description="unlabelled images of the target domain")
    method: Literal["features", "outputs"] = Field(
        "features", description="gradient reversal on the deepest features, or a discriminator on the predictions"
    )
    weight: NotNegative = Field(0.1, description="largest factor of the reversed or adversarial gradient")
    steepness: Positive = Field(10.0, description="schedule 2 / (1 + exp(-steepness · progress)) - 1")


class BatchNormConfig(Section):
    """Batch normalisation statistics."""

    freeze: bool = Field(False, description="use and keep the loaded statistics; for small batches and fine-tuning")
    freeze_after: Annotated[int, Field(ge=0)] | None = Field(
        None, description="epoch from which statistics stand still"
    )
    recalibrate: Annotated[int, Field(ge=0)] = Field(
        0, description="batches to re-estimate the statistics over before export"
    )


class TrainConfig(Section):
    """A training run."""

    name: str = Field(description="name of the model in its card")
    classes: list[str] = Field(
        min_length=2, max_length=255, description="class names in index order, `name` or `name=#rrggbb`"
    )
    mpp: Annotated[float, Field(ge=0.02, le=100)] = Field(description="µm per px the model works at")
    data: DataConfig = Field(description="where patches come from")
    patch_size: Annotated[int, Field(ge=16)] = Field(256, description="side of a training patch, px at `mpp`")
    tile_size: Annotated[int, Field(ge=16)] = Field(
        512, description="side of a tile when the model runs; goes into the card"
    )
    mean: tuple[float, float, float] = Field((0.5, 0.5, 0.5), description="subtracted from pixel / 255, per channel")
    std: tuple[Positive, Positive, Positive] = Field((0.25, 0.25, 0.25), description="divides after that, per channel")
    border: Annotated[int, Field(ge=0)] = Field(
        0,
        description="`instances`: px between touching objects that become background, so that they come apart",
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="the network")
    loss: list[LossTerm] = Field(
        default_factory=lambda: [LossTerm(name="cross-entropy"), LossTerm(name="dice")],
        min_length=1,
        description="addends of the loss",
    )
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig, description="steps and learning rates")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="random changes of a batch")
    transfer: TransferConfig | None = Field(None, description="start from trained weights")
    distill: DistillConfig | None = Field(None, description="learn from a larger model")
    semi: SemiConfig | None = Field(None, description="learn from unlabelled images")
    domain: DomainConfig | None = Field(None, description="adapt to an unlabelled domain")
    batch_norm: BatchNormConfig = Field(default_factory=BatchNormConfig, description="normalisation statistics")
    batch_size: Count = Field(8, description="patches per batch and process")
    epochs: Count = Field(50, description="passes; learning rate and ramps are laid over all of them")
    patience: Count | None = Field(
        None, description="epochs without a better validation score after which training ends"
    )
    score: Literal["dice", "iou", "loss"] = Field(
        "dice", description="what the best epoch is chosen by: mean over the classes but the first, or loss"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="autocast type of the forward pass; fp16 scales the loss"
    )
    max_bad_steps: Count = Field(
        20, description="steps in a row with NaN or Inf after which training fails; fewer are skipped and counted"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of everything random")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train")
    threads: Count | None = Field(None, description="CPU threads of one process; absent: all cores")
    licence: str = Field("", description="SPDX identifier of the weights, for the card")
    training_data: str = Field("", description="attribution of the data, for the card")
    description: str = Field("", description="one paragraph for people, for the card")


def read_config(path: Path, changes: list[str] | None = None) -> TrainConfig:
    """The configuration in a YAML file, with `key.key=value` changes (value is YAML) applied.

    Relative paths are taken from the folder of the file. Raises ConfigError.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", remedy="check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}", rule="a configuration is a mapping of keys")
    for change in changes or []:
        _apply(content, change)
    return config_from(content, source=str(path), folder=path.parent)


def config_from(content: dict[str, Any], source: str = "configuration", folder: Path | None = None) -> TrainConfig:
    """The configuration of plain values; relative paths are taken from `folder`. Raises ConfigError."""
    try:
        config = TrainConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_problems(error)}", remedy="`wsi-seg train --keys` lists every key") from error
    return config if folder is None else _rooted(config, folder.resolve())


def to_yaml(config: TrainConfig) -> str:
    """The configuration with every key written out; `read_config` of it gives the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differing_keys(a: TrainConfig, b: TrainConfig) -> list[tuple[str, object, object]]:
    """(key, value in `a`, value in `b`) wherever two configurations differ, nested keys with dots.

    >>> one = config_from({"name": "a", "classes": ["x", "y"], "mpp": 0.5, "data": {"train": [{"slide": "s.svs"}]}})
    >>> differing_keys(one, one.model_copy(update={"epochs": 3}))
    [('epochs', 50, 3)]
    """
    return list(_differing(a.model_dump(mode="json"), b.model_dump(mode="json"), ""))


def _differing(a: Any, b: Any, key: str) -> Iterator[tuple[str, object, object]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in dict.fromkeys([*a, *b]):
            yield from _differing(a.get(name), b.get(name), f"{key}.{name}" if key else name)
    elif a != b:
        yield key, a, b


def describe_keys() -> list[tuple[str, str, str]]:
    """(key, default, meaning) of every key, nested ones with dots, `[]` for list items.

    >>> [row for row in describe_keys() if row[0] == "model.depth"]
    [('model.depth', '4', 'number of down-samplings after the stem')]
    """
    return list(_described(TrainConfig, "", {}))


def _described(section: type[BaseModel], prefix: str, told: dict[Any, str]) -> Iterator[tuple[str, str, str]]:
    """The rows of a section; sections that come again are told once."""
    for name, field in section.model_fields.items():
        inner = [(part, f"{prefix}{name}{suffix}") for part, suffix in _sections(field.annotation)]
        again = next((f"; keys as {told[part]}" for part, _ in inner if part in told), "")
        yield prefix + name, _default(field), (field.description or "") + again
        for part, place in inner:
            if part not in told:
                told[part] = place
                yield from _described(part, place + ".", told)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "section" if isinstance(value, BaseModel) else json.dumps(value, default=_plain)


def _plain(value: object) -> object:
    return value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else str(value)


def _sections(annotation: Any, suffix: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """Sections inside a type, with `[]` where they are items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, suffix
    for argument in get_args(annotation):
        yield from _sections(argument, "[]" if get_origin(annotation) is list else suffix)


def _apply(content: dict[str, Any], change: str) -> None:
    """Set `key.key=value` in place."""
    key, equals, value = change.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {change!r}", rule="a change is key=value, nested keys with dots")
    *parents, last = key.strip().split(".")
    place: Any = content
    for name in parents:
        if isinstance(place, list):
            place = place[_index(place, name, change)]
        else:
            if place.get(name) is None:  # `semi:` with nothing after it, or null
                place[name] = {}
            place = place[name]
        if not isinstance(place, dict | list):
            raise ConfigError(f"--set {change!r}", rule=f"{name} is a value, not a section")
    try:
        place[_index(place, last, change) if isinstance(place, list) else last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change!r}: {value!r} is not YAML", remedy="quote the value") from error


def _index(items: list[Any], name: str, change: str) -> int:
    if not name.isdecimal() or int(name) >= len(items):
        rule = f"{name} must be a number below {len(items)}: it stands for an item of a list"
        raise ConfigError(f"--set {change!r}", rule=rule)
    return int(name)


def _problems(error: ValidationError) -> str:
    """Each problem as `key: what is wrong`."""
    lines = []
    for item in error.errors():
        # What follows a number and names a form of a source is pydantic's, not a key of the file.
        parts = [p for p, before in zip(item["loc"], ("", *item["loc"]), strict=False) if not _is_form(p, before)]
        key = ".".join(str(part) for part in parts)
        if item["type"] == "extra_forbidden":
            lines.append(f"{key}: there is no such key{_hint(parts, in_slide='slide' in item['loc'])}")
            continue
        given = "" if item["type"] in ("missing", "value_error") else f" (given: {item['input']!r:.80})"
        words = item["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
        lines.append(f"{key or 'configuration'}: {words.replace('Input should be', 'must be')}{given}")
    return "; ".join(dict.fromkeys(lines))


def _hint(parts: list[int | str], *, in_slide: bool) -> str:
    """What was probably meant by a key that is not there."""
    if in_slide and parts[-1] in ImageSource.model_fields:
        return " in a source with `slide`; images are a source of their own"
    asked = ".".join("[]" if isinstance(part, int) else part for part in parts).replace(".[]", "[]")
    close = difflib.get_close_matches(asked, [key for key, _, _ in describe_keys()], 1)
    return f"; did you mean {close[0]}?" if close else ""


def _is_form(part: int | str, before: int | str) -> bool:
    return isinstance(before, int) and part in ("images", "slide")


def _rooted(value: Any, folder: Path) -> Any:
    """The same value with every relative path below taken from `folder`."""
    if isinstance(value, BaseModel):
        changes = {name: _rooted(getattr(value, name), folder) for name in type(value).model_fields}
        return value.model_copy(update=changes)
    if isinstance(value, list):
        return [_rooted(item, folder) for item in value]
    return folder / value if isinstance(value, Path) else value
