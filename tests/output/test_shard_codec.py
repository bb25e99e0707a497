"""Shards encoded by us hold what zarr reads, for every shape; damage never passes silently."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.output.making import blobs, make_spec
from wsi_seg.output.documents import array_documents
from wsi_seg.output.result_spec import GZIP, LABELS, PROBABILITIES, ZSTD, shard_key
from wsi_seg.output.shard_codec import encode_chunk, encode_shard, index_bytes


def read_through_zarr(root: Path, key: str, document: Any) -> zarr.Array[Any]:
    (root / key).mkdir(parents=True, exist_ok=True)
    (root / key / "zarr.json").write_text(json.dumps(document))
    return zarr.open_array(zarr.storage.LocalStore(root, read_only=True), path=key, mode="r")


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    block=st.sampled_from([256, 512, 1024]),
    wide=st.booleans(),
    share=st.sampled_from([0.0, 0.001, 0.5, 1.0]),
    codec=st.sampled_from([ZSTD, GZIP]),
    seed=st.integers(0, 99),
)
def test_zarr_reads_labels_back(size, block, wide, share, codec, seed):
    spec = make_spec(size, block, not_analysed=65535 if wide else 255, codec=codec)
    rng = np.random.default_rng(seed)
    labels = np.full(size, spec.not_analysed, spec.dtype)
    analysed = rng.random(size) < share
    labels[analysed] = rng.integers(0, 60000 if wide else 250, int(analysed.sum()))
    with tempfile.TemporaryDirectory() as folder:
        array = read_through_zarr(Path(folder), f"{LABELS}/0", array_documents(spec)[f"{LABELS}/0"])
        for y in range(0, size[0], block):
            for x in range(0, size[1], block):
                part = labels[y : y + block, x : x + block]
                content = encode_shard(part, block, spec.chunk(0), spec.not_analysed, codec)
                assert (content is None) == bool((part == spec.not_analysed).all())
                if content is not None:
                    path = Path(folder) / shard_key(f"{LABELS}/0", y // block, x // block)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
        assert array.dtype == spec.dtype
        np.testing.assert_array_equal(array[...], labels)


def test_zarr_reads_channels_back_one_chunk_each(tmp_path):
    spec = make_spec((700, 900), 1024, probabilities=True)
    chances = np.random.default_rng(0).integers(0, 255, (3, 700, 900), dtype=np.uint8)
    chances[1, :512, :512] = 0
    array = read_through_zarr(tmp_path, f"{PROBABILITIES}/0", array_documents(spec)[f"{PROBABILITIES}/0"])
    content = encode_shard(chances, 1024, 512, 0)
    path = tmp_path / shard_key(f"{PROBABILITIES}/0", 0, 0, 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    np.testing.assert_array_equal(array[...], chances)
    np.testing.assert_array_equal(array[2, 600:, 100:200], chances[2, 600:, 100:200])


def test_views_and_copies_give_the_same_bytes():
    labels = blobs((1024, 1024), 4, 255)
    view = labels[100:612, 300:812]
    assert encode_shard(view, 512, 256, 255) == encode_shard(view.copy(), 512, 256, 255)


@pytest.mark.parametrize("codec", [ZSTD, GZIP])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_chunks_of_one_value_are_encoded_like_all_others(codec, dtype):
    for value in (0, 1, 254, 0):
        for side in (256, 512):
            labels = np.full((512, 512), value, dtype)
            content = encode_shard(labels, 512, side, 255, codec)
            alone = encode_chunk(labels[:side, :side], codec)
            assert content[: -index_bytes(512, side)] == alone * (512 // side) ** 2


@pytest.mark.parametrize(("shape", "side", "chunk"), [((300, 300), 256, 256), ((256, 256), 256, 100)])
def test_sizes_that_do_not_fit_are_refused(shape, side, chunk):
    with pytest.raises(ValueError, match="px in a shard of"):
        encode_shard(np.zeros(shape, np.uint8), side, chunk, 255)


@pytest.mark.parametrize("codec", [ZSTD, GZIP])
def test_no_flipped_bit_passes_silently(tmp_path, codec):
    spec = make_spec((256, 256), 256, codec=codec)
    labels = blobs((256, 256), 3, 255)
    array = read_through_zarr(tmp_path, f"{LABELS}/0", array_documents(spec)[f"{LABELS}/0"])
    content = encode_shard(labels, 256, 256, 255, codec)
    path = tmp_path / shard_key(f"{LABELS}/0", 0, 0)
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for position in rng.choice(len(content), 150, replace=False):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(Exception):  # noqa: B017, PT011 zarr's codecs raise many kinds
            array[...]
