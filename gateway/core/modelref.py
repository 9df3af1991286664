"""What a client names: a model, and what the client says of its variant, version, label and signature.

Dialects parse names into a `ModelRef` once. After that nothing splits a name or joins one.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.errors import InvalidArgument

#: The signature that serves a request which names none; PyTorch models have no other.
DEFAULT_SIGNATURE = "serving_default"


class ModelRef(NamedTuple):
    """A model as a request names it. None and the empty label mean that the client leaves it to the gateway.

    ``label`` is TensorFlow Serving's name of a version; a ref has a version or a label, never both. A NamedTuple is
    hashed and compared in C, which counts: each request makes one and finds its target by it.

    >>> ModelRef.parse("convnet@pytorch", version=3)
    ModelRef(model='convnet', variant='pytorch', version=3, label='', signature='serving_default')
    """

    model: str
    variant: str | None = None
    version: int | None = None
    label: str = ""
    signature: str = DEFAULT_SIGNATURE

    @staticmethod
    def parse(
        name: str,
        *pins: str | None,
        version: int | None = None,
        label: str = "",
        signature: str = DEFAULT_SIGNATURE,
    ) -> ModelRef:
        """``name`` may pin the variant (``model@variant``), and so may ``pins``, such as a header's value.

        Raises InvalidArgument where they differ, or where nothing follows the ``@``.
        """
        model, variant = split_pin(name)
        return ModelRef(model, agree(variant, *pins), version, label, signature)

    @property
    def floats(self) -> bool:
        """Whether the version is the gateway's to choose: where it disappears, another one can answer."""
        return self.version is None

    def pinned(self, variant: str | None) -> ModelRef:
        """With the variant that one more place pins. Raises InvalidArgument where another one is pinned already."""
        if variant is None:
            return self
        return ModelRef(self.model, agree(self.variant, variant), self.version, self.label, self.signature)

    def calling(self, signature: str) -> ModelRef:
        """With this signature."""
        if signature == self.signature:
            return self
        return ModelRef(self.model, self.variant, self.version, self.label, signature)


def is_model_name(name: str) -> bool:
    """A name that every dialect can carry: not empty, and without what separates names in paths."""
    return bool(name) and not set("@/:") & set(name)


def split_pin(name: str) -> tuple[str, str | None]:
    """``convnet@pytorch`` is the model ``convnet`` pinned to the variant ``pytorch``."""
    model, separator, variant = name.partition("@")
    if separator and not variant:
        raise InvalidArgument(f"{name!r} names no variant after the @")
    return model, variant or None


def agree(*pins: str | None) -> str | None:
    """The one variant that name, header and parameter pin. Raises InvalidArgument where they differ."""
    given = {pin for pin in pins if pin}
    if len(given) > 1:
        raise InvalidArgument(f"the request is pinned to several variants: {', '.join(sorted(given))}")
    return given.pop() if given else None
