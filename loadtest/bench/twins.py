"""The benchmark's own model, in both frameworks: the means of an image's channels. All of its cost is bytes.

``python -m loadtest.bench.twins FOLDER`` writes ``FOLDER/tensorflow/<name>/1`` and ``FOLDER/thumbnail.pt``.
"""

from __future__ import annotations

import sys
from pathlib import Path

NAME = "thumbnail"
INPUT, OUTPUT = "image", "means"
SHAPE = (3, 224, 224)


def main(folder: Path) -> None:
    _tensorflow(folder / "tensorflow" / NAME / "1")
    _pytorch(folder / f"{NAME}.pt")


def _tensorflow(folder: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(
        lambda image: {OUTPUT: tf.reduce_mean(image, axis=[2, 3])},
        input_signature=[tf.TensorSpec([None, *SHAPE], tf.float32, name=INPUT)],
    )
    tf.saved_model.save(module, str(folder), signatures=module.serve)


def _pytorch(path: Path) -> None:
    import torch

    class Means(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.mean(dim=(2, 3))

    torch.jit.script(Means()).save(str(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
