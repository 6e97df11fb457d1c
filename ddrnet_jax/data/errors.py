"""The exceptions of the data package."""

from ddrnet_jax.errors import TryAgain, UserError
from ddrnet_jax.text import first_few

Pair = tuple[str, str | int]  # the image's path; the path of its mask, or its class number


class DataError(UserError):
    """Something is wrong with the user's data; the message names the file and what to do."""


class DataAway(DataError, TryAgain):
    """The bucket that the data is in does not answer."""


class UnreadKind(DataError):
    """A file is not damaged, but of a kind that is not read; the message says what to make of it.

    value_range  (lowest, highest) of an image that data.value_range would make one that is read; else None
    """

    def __init__(self, message: str, value_range: tuple[float, float] | None = None):
        super().__init__(message)
        self.value_range = value_range


class MissingLabels(DataError):
    """Some images have no label.

    pairs    (image, label) of the others
    missing  (image, where its label was expected)
    advice   what to do
    """

    def __init__(self, pairs: list[Pair], missing: list[tuple[str, str]], advice: str):
        self.pairs, self.missing, self.advice = pairs, missing, advice
        super().__init__(
            f"{len(missing)} of {len(pairs) + len(missing)} images have no label: "
            f"{first_few([image for image, _ in missing])}; expected {missing[0][1]}"
            f"{' of the first' if len(missing) > 1 else ''}: {advice}"
        )
