"""Models that take many seconds to train, and the epochs that every run of the tests gives them instead."""

from __future__ import annotations

SHORTENED = {"convnet": 3, "image_classifier": 2, "rnn": 3, "lstm_text_generator": 2, "gan": 1}
