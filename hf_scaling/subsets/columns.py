"""Which column of a data set holds the images and which the classes, and what its labels are called."""

import difflib
from collections.abc import Iterable, Sequence

from hf_scaling.errors import InputError

_LABEL_NAMES = ("label", "labels", "class", "target", "fine_label")


def image_column(features: dict, wanted: str | None, what: str) -> str:
    """Find the image column of a data set's `features`.

    Raises:
        InputError: `wanted` is unknown or holds no images, or none or several columns do.
    """
    candidates = [name for name, feature in features.items() if _holds_images(feature)]
    if wanted is not None:
        _check_known(features, wanted, "image_column", what)
        if wanted not in candidates:
            raise InputError(f"image_column: {wanted} of {what} holds no images")
        return wanted
    return _only(candidates, "image_column", "images", features, what)


def label_column(features: dict, wanted: str | None, what: str) -> str:
    """Find the label column: `wanted`, else the only one of type ClassLabel, else one that is named as labels are.

    Raises:
        InputError: `wanted` is unknown, none or several columns come into question, or the labels cannot be classes.
    """
    from datasets import ClassLabel

    if wanted is None:
        named = [name for name in _LABEL_NAMES if name in features]
        typed = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        candidates = [name for name in typed if name == "label"] or typed or named[:1]
        wanted = _only(candidates, "label_column", "class labels", features, what)
    _check_known(features, wanted, "label_column", what)
    if not _holds_classes(features[wanted]):
        raise InputError(
            f"label_column: {wanted} of {what} holds {_type_name(features[wanted])}, which are not class ids: "
            "give whole numbers, names or a ClassLabel"
        )
    return wanted


def name_classes(labels: list, what: str) -> list[str]:
    """Name the classes of labels that are plain numbers or strings: the distinct ones, in ascending order.

    They must be few: on average every one stands at two images or more.

    Args:
        labels: Of the training part.
        what: The column, as messages should name it.

    Raises:
        InputError: A label is missing, or there is more than one distinct label every two images.
    """
    if None in labels:
        raise InputError(f"{what}: row {labels.index(None)} has no label")
    distinct = sorted(set(labels))
    if 2 * len(distinct) > len(labels):
        raise InputError(f"{what}: {len(distinct):,} different labels on {len(labels):,} images are no classes")
    return [str(value) for value in distinct]


class LabelIds:
    """Turns a column's labels into class ids, and those into places among the chosen classes.

    Attributes:
        share: Of the classes, how many are chosen.
    """

    def __init__(self, feature, names: Sequence[str], chosen: Iterable[int], what: str):
        """Prepare for labels of `feature`, whose classes are `names`, of which `chosen` take part."""
        self._names, self._what = names, what
        keys = range(len(names)) if hasattr(feature, "names") else names
        self._ids = {str(key): number for number, key in enumerate(keys)}
        self._places = {number: place for place, number in enumerate(chosen)}
        self.share = len(self._places) / len(names)

    def place(self, label, row: int) -> int | None:
        """Give a label's place among the chosen classes, None when its class does not take part.

        Raises:
            InputError: The label is none of the classes.
        """
        number = self._ids.get(str(label))
        if number is None:
            said = (
                "no label"
                if label is None or label == -1
                else f"label {label!r}, which the training part does not have"
            )
            raise InputError(f"{self._what}: row {row} has {said}")
        return self._places.get(number)


def _holds_images(feature) -> bool:
    from datasets import Image, Value

    if isinstance(feature, dict):
        return {"bytes", "path"} <= set(feature)
    return isinstance(feature, Image) or (isinstance(feature, Value) and feature.dtype in ("binary", "large_binary"))


def _holds_classes(feature) -> bool:
    from datasets import ClassLabel, Value

    if isinstance(feature, ClassLabel):
        return True
    kinds = ("int", "uint", "string", "large_string", "bool")
    return isinstance(feature, Value) and feature.dtype.startswith(kinds)


def _type_name(feature) -> str:
    return f"{feature.dtype} values" if isinstance(getattr(feature, "dtype", None), str) else type(feature).__name__


def _check_known(features: dict, wanted: str, field: str, what: str) -> None:
    if wanted not in features:
        nearest = difflib.get_close_matches(wanted, features, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(features)}"
        raise InputError(f"{field}: {what} has no column {wanted}: {hint}")


def _only(candidates: list[str], field: str, kind: str, features: dict, what: str) -> str:
    if len(candidates) == 1:
        return candidates[0]
    found = f"columns {', '.join(candidates)} could all hold" if candidates else "no column seems to hold"
    raise InputError(f"{what}: {found} {kind}: name one of {', '.join(features)} as {field}")
