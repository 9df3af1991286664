from __future__ import annotations

import numpy as np
import pytest

from models.datasets import as_images, digits_as_images, digits_as_pixels, resize_matrix, stratified_split


def test_a_fifth_of_each_digit_is_held_out() -> None:
    """Per class and not over all rows: a class can be neither missing nor crowded on one side."""
    digits = digits_as_pixels()
    held_out, train = (np.bincount(split.targets, minlength=10) for split in (digits.held_out, digits.train))
    np.testing.assert_array_equal(held_out, np.round(0.2 * (held_out + train)).astype(int))


def test_the_parts_of_a_split_share_no_row_and_lose_none() -> None:
    rows = np.arange(100)
    data = stratified_split("numbers", rows, rows % 4)
    assert sorted([*data.train.inputs[0], *data.held_out.inputs[0]]) == rows.tolist()
    np.testing.assert_array_equal(data.train.targets, data.train.inputs[0] % 4)


def test_a_split_is_the_same_every_time() -> None:
    rows = np.arange(100)
    first, second = (stratified_split("numbers", rows, rows % 4).held_out.inputs[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_pixels_are_float32_in_0_to_1() -> None:
    for data in (digits_as_pixels(), digits_as_images()):
        pixels = data.train.inputs[0]
        assert pixels.dtype == np.float32
        assert (pixels.min(), pixels.max()) == (0, 1)


def test_images_are_the_pixels_resized_as_both_frameworks_resize() -> None:
    """Our own resizing needs no framework, and must not make digits that a framework's users do not know."""
    import tensorflow as tf
    import torch

    pixels = digits_as_pixels().held_out.inputs[0][:20].reshape(-1, 8, 8)
    images = digits_as_images().held_out.inputs[0][:20]
    by_torch = torch.nn.functional.interpolate(torch.from_numpy(pixels)[:, None], (28, 28), mode="bilinear")
    np.testing.assert_allclose(images[..., 0], by_torch[:, 0].numpy(), atol=1e-6)
    np.testing.assert_allclose(images, tf.image.resize(pixels[..., None], (28, 28)).numpy(), atol=1e-6)


@pytest.mark.parametrize(("size", "new_size"), [(8, 28), (28, 8), (3, 3), (1, 5)])
def test_resizing_keeps_a_flat_image_flat(size: int, new_size: int) -> None:
    np.testing.assert_allclose(resize_matrix(size, new_size) @ np.full(size, 0.5), 0.5)


def test_bytes_of_an_image_become_floats_with_a_channel() -> None:
    split = as_images(np.full((3, 28, 28), 255, np.uint8), np.array([1, 2, 3], np.uint8))
    assert (split.inputs[0].shape, split.inputs[0].max()) == ((3, 28, 28, 1), 1)
    assert split.targets.dtype == np.int64
