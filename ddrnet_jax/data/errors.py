"""The exceptions of the data package."""

from collections.abc import Sequence

from ddrnet_jax.errors import UserError


class DataError(UserError):
    """Something is wrong with the user's data; the message names the file and what to do."""


class MissingLabels(DataError):
    """Some images have no label.

    pairs    (image, label) of the others
    missing  (image, where its label was expected)
    advice   what to do
    """

    def __init__(self, pairs: list[tuple[str, str]], missing: list[tuple[str, str]], advice: str):
        self.pairs, self.missing, self.advice = pairs, missing, advice
        super().__init__(
            f"{len(missing)} of {len(pairs) + len(missing)} images have no label: "
            f"{first_few([image for image, _ in missing])}; expected {missing[0][1]}"
            f"{' of the first' if len(missing) > 1 else ''}: {advice}"
        )


def first_few(names: Sequence[str], count: int = 3) -> str:
    """ "a, b, c and 4 more" """
    return ", ".join(map(str, names[:count])) + (f" and {len(names) - count:,} more" if len(names) > count else "")
