"""Is a zero-shot accuracy above chance? Where it is not, nothing was there to keep."""

from __future__ import annotations

LEVEL = 0.05
"""Of the p-value below which an accuracy counts as above chance."""
NOT_MEASURABLE = "not measurable"
"""In place of a retention where the backbone is not above chance."""


def chance_p(correct: int, images: int, classes: int) -> float:
    """Exact one-sided binomial test: P(at least `correct` of `images` right) when guessing among `classes`.

    Raises:
        ValueError: counts that contradict each other.
    """
    if not (0 <= correct <= images and images >= 1 and classes >= 1):
        raise ValueError(f"{correct} of {images} images right, {classes} classes")
    from scipy.special import bdtrc  # slow to load, and a listing does without

    return float(bdtrc(correct - 1, images, 1 / classes))


def accuracy_p(accuracy: float, images: int, classes: int) -> float:
    """:func:`chance_p` of an accuracy in percent, or of a mean recall at 1, on so many images."""
    return chance_p(correct_of(accuracy, images), images, answers(images, classes))


def answers(images: int, classes: int) -> int:
    """Among how many answers one guesses: the classes, or, where captions stand for them, the images."""
    return classes or images


def above_chance(correct: int, images: int, classes: int) -> bool:
    """Whether `correct` of `images` right is more than guessing among `classes` gives (:func:`chance_p`)."""
    return chance_p(correct, images, classes) < LEVEL


def chance_note(transfer: str, accuracy: float, images: int, classes: int) -> str | None:
    """One line where a backbone's accuracy (percent) on a set is not above chance; else None.

    Args:
        classes: 0 where the set has captions, and the accuracy is its mean recall at 1.
    """
    p = accuracy_p(accuracy, images, classes)
    if measurable(p):
        return None
    what, advice = (
        ("zero-shot accuracy", "`classes` and `prompts`") if classes else ("mean recall at 1", "the captions")
    )
    chance = 100 / answers(images, classes)
    return (
        f"{transfer}: the backbone's {what}, {accuracy:.1f} %, is not above chance "
        f"({chance:.1f} %; exact binomial test, p = {p:.2f}): what is kept of it is not measurable; "
        f"check {advice}"
    )


def measurable(p: float | None) -> bool:
    """Whether retention says something, by :func:`chance_p` of the backbone; an unknown p does not object."""
    return p is None or not p >= LEVEL  # nan compares as false


def correct_of(accuracy: float, images: int) -> int:
    """Number of `images` that are right at an accuracy in percent."""
    return round(accuracy * images / 100)
