"""Whether a sentence is favourable: text in, probabilities out, its words and pairs of words found inside the model.

    bytes -> words and pairs -> hashes -> embedding 16 -> mean -> dense 32 relu -> dense 2 softmax

A client sends plain text, UTF-8. Words are runs of the bytes a-z, 0-9, ' and all from 0x80 on, A-Z being made small
first: so a word in another script stays whole and as it is, and no table of Unicode is asked, of which the frameworks
have different ones. There is no list of known words either. Word and pair take the row that their hash names of a
table of 8,192 (the hashing trick: Weinberger et al. 2009; pairs in it: Joulin et al. 2016, "Bag of Tricks"), and pairs
are how "not good" differs from "good". A text without a word has the mean 0.

Both twins compute in integers of 64 bits that overflow alike, over all bytes of a batch at once:

    hash of word  = sum of byte_j * PRIME^j over its bytes j = 1, 2, ...
    hash of pair  = hash of first * PAIR + hash of second
    row of table  = bits 32..44 of hash * SPREAD
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import sentences
from models.spec import Hyperparameters, ModelSpec, TensorSpec, Weight, layer

if TYPE_CHECKING:
    import keras
    from torch import Tensor, nn

ROWS, SIZE = 8_192, 16
PRIME, PAIR, SPREAD = 1_000_003, 6_364_136_223_846_793_005, 7_046_029_254_386_353_131


def pytorch() -> nn.Module:
    import torch
    from torch import nn

    class TextClassifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(ROWS, SIZE)
            self.hidden = nn.Linear(SIZE, 32)
            self.side = nn.Linear(32, 2)
            self.prime, self.pair, self.spread = PRIME, PAIR, SPREAD  # TorchScript knows no names from outside

        def forward(self, text: list[str]) -> Tensor:
            rows, texts = self.found(text)
            vectors = self.embedding(rows)
            sums = vectors.new_zeros(len(text), vectors.size(1)).index_add(0, texts, vectors)
            counts = torch.bincount(texts, minlength=len(text)).clamp_min(1).unsqueeze(1)
            return torch.softmax(self.side(torch.relu(self.hidden(sums / counts))), dim=1)

        def found(self, text: list[str]) -> tuple[Tensor, Tensor]:
            """Of all words and pairs: their rows of the table, and the number of the text that each is in."""
            byte, text_of_byte = self.bytes_of(text)
            byte = torch.where((byte >= 65) & (byte <= 90), byte + 32, byte)
            in_word = ((byte >= 97) & (byte <= 122)) | ((byte >= 48) & (byte <= 57)) | (byte == 39) | (byte >= 128)
            starts = in_word & ~torch.roll(in_word, 1)  # the last byte, a space, comes before the first
            start, at = torch.where(starts)[0], torch.where(in_word)[0]
            word_of_byte = (torch.cumsum(starts, 0) - 1)[at]
            powers = torch.cumprod(torch.full_like(byte, self.prime), 0)
            parts = byte[at] * powers[at - start[word_of_byte]]
            word = torch.zeros_like(start).index_add(0, word_of_byte, parts)
            text_of_word = text_of_byte[start]
            together = torch.where(text_of_word[1:] == text_of_word[:-1])[0]
            pair = word[together] * self.pair + word[together + 1]
            hashes = torch.cat([word, pair])
            rows = ((hashes * self.spread) >> 32) & (self.embedding.num_embeddings - 1)
            return rows, torch.cat([text_of_word, text_of_word[together]])

        def bytes_of(self, text: list[str]) -> tuple[Tensor, Tensor]:
            """The bytes of all texts with a space behind each, and the number of the text that each is of."""
            values: list[int] = []
            sizes: list[int] = []
            for one in text:
                before = len(values)
                if torch.jit.is_scripting():
                    for letter in one:  # of TorchScript's strings: a byte
                        values.append(ord(letter))
                else:
                    values.extend(one.encode())
                values.append(32)
                sizes.append(len(values) - before)
            device = self.embedding.weight.device
            lengths = torch.tensor(sizes, dtype=torch.int64, device=device)
            texts = torch.arange(len(text), device=device)
            return torch.tensor(values, dtype=torch.int64, device=device), torch.repeat_interleave(texts, lengths)

    return TextClassifier()


def tensorflow() -> keras.Model:
    import tensorflow as tf
    from keras import Input, Layer, Sequential, layers

    class MeanOfEmbeddings(Layer):
        def build(self, shape: tuple[int, ...]) -> None:
            self.table = self.add_weight(name="embeddings", shape=(ROWS, SIZE))

        def compute_output_shape(self, shape: tuple[int, ...]) -> tuple[int | None, int]:
            return shape[0], SIZE

        def call(self, text: tf.Tensor) -> tf.Tensor:
            rows, texts = self.found(text)
            number = tf.size(text)
            sums = tf.math.unsorted_segment_sum(tf.gather(self.table, rows), texts, number)
            counts = tf.math.unsorted_segment_sum(tf.ones_like(texts), texts, number)
            return sums / tf.cast(tf.maximum(counts, 1), tf.float32)[:, tf.newaxis]

        def found(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            """Of all words and pairs: their rows of the table, and the number of the text that each is in."""
            spaced = tf.strings.join([text, " "])
            byte = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(spaced), tf.uint8), tf.int64)
            text_of_byte = tf.repeat(tf.range(tf.size(text)), tf.strings.length(spaced))
            byte = tf.where((byte >= 65) & (byte <= 90), byte + 32, byte)
            in_word = ((byte >= 97) & (byte <= 122)) | ((byte >= 48) & (byte <= 57)) | (byte == 39) | (byte >= 128)
            starts = in_word & ~tf.roll(in_word, 1, 0)  # the last byte, a space, comes before the first
            start, at = tf.where(starts)[:, 0], tf.where(in_word)[:, 0]
            word_of_byte = tf.gather(tf.cumsum(tf.cast(starts, tf.int64)) - 1, at)
            powers = tf.math.cumprod(tf.fill(tf.shape(byte), tf.constant(PRIME, tf.int64)))
            parts = tf.gather(byte, at) * tf.gather(powers, at - tf.gather(start, word_of_byte))
            word = tf.math.unsorted_segment_sum(parts, word_of_byte, tf.size(start))
            text_of_word = tf.gather(text_of_byte, start)
            together = tf.where(text_of_word[1:] == text_of_word[:-1])[:, 0]
            pair = tf.gather(word, together) * PAIR + tf.gather(word, together + 1)
            hashes = tf.concat([word, pair], 0)
            rows = tf.bitwise.right_shift(hashes * SPREAD, tf.constant(32, tf.int64)) & (ROWS - 1)
            return rows, tf.concat([text_of_word, tf.gather(text_of_word, together)], 0)

    return Sequential(
        [
            Input((), dtype="string"),
            MeanOfEmbeddings(name="embedding"),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(2, activation="softmax", name="side"),
        ]
    )


SPEC = ModelSpec(
    name="text_classifier",
    description="sentiment of an English sentence in UTF-8: probability that it is negative, and positive",
    inputs=(TensorSpec("text", "BYTES", (-1,)),),
    outputs=(TensorSpec("probabilities", "FP32", (-1, 2)),),
    weights=(
        Weight("embedding.weight", (ROWS, SIZE), "glorot_uniform"),
        *layer("hidden", 32, SIZE),
        *layer("side", 2, 32),
    ),
    datasets={"sentences": sentences.made_up, "imdb": sentences.imdb},
    hyperparameters=Hyperparameters(
        loss="cross_entropy_of_probabilities", optimizer="adam", learning_rate=1e-2, batch_size=32, epochs=6
    ),
    bar=0.95,
    rows="independent",
    labels=("negative", "positive"),
    file_reader=sentences.from_file,
    pytorch=pytorch,
    tensorflow=tensorflow,
)
