"""What the columns of a table are for: target, weight, categories to one-hot encode, and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.data.intake import Intake, Words
from coordinator.errors import InputError


@dataclass(frozen=True)
class Roles:
    """Positions of a table's columns by what they are for.

    Attributes
    ----------
    names : of all columns, as given or their positions.
    label, weight : positions, or None.
    hot : positions of one-hot columns, increasing, as `Intake.hot` has them.
    numbers : positions of the columns that are features as they are.
    """

    names: tuple[str, ...]
    label: int | None
    weight: int | None
    hot: tuple[int, ...]
    numbers: tuple[int, ...]

    def said(self, column: int) -> str:
        """A column as messages call it: from 1, with its name if it has one."""
        name = self.names[column]
        return f"column {column + 1}" if name == str(column) else f"column {column + 1} ({name!r})"


def find_column(names: Sequence[str], wanted: str | int, what: str, where: str) -> int:
    """The position of a column given by name or index; InputError when there is no such column."""
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    try:
        index = int(wanted)
    except ValueError:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise InputError(f"{where}: no column {wanted!r} for {what}; there are {len(names)}: {shown}") from None
    if not -len(names) <= index < len(names):
        raise InputError(f"{where}: no column {index} for {what}: there are {len(names)}, counted from 0")
    return index % len(names)


def assign(names: Sequence[str], intake: Intake, where: str, *, default_label: int | None, named: bool) -> Roles:
    """Decide the columns' roles and tell `intake` the features' names and the one-hot columns.

    Parameters
    ----------
    names : of all columns; their positions when they have none.
    default_label : the target's position where the options name none.
    named : whether the names are worth keeping.

    Raises
    ------
    InputError
        For unknown columns, one column with two roles, repeated names, and when no feature is left.
    """
    options = intake.options
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"{where}: two columns are called {twice!r}: rename one")
    label = default_label
    if options.label is not None and options.labelled:
        label = find_column(names, options.label, "the label", where)
    weight = None if options.weight is None else find_column(names, options.weight, "weights", where)
    hot = tuple(sorted(find_column(names, column, "one_hot", where) for column in options.one_hot))
    taken = [column for column in (label, weight, *hot) if column is not None]
    if len(set(taken)) < len(taken):
        twice = next(names[column] for column in taken if taken.count(column) > 1)
        raise InputError(f"{where}: column {twice!r} is given two roles (label, weight, one_hot): give it one")
    numbers = tuple(column for column in range(len(names)) if column not in taken)
    if not numbers and not hot:
        raise InputError(f"{where}: no column is left for features, of {len(names)} in all; is the separator right?")
    if hot and not intake.hot:
        # a table's categories take their column's place among the features
        for column in hot:
            name = names[column] if named else f"x{column}"
            position = sum(number < column for number in numbers)
            intake.hot.append((position, Words(f"{where}: column {names[column]!r}", name)))
    if named or hot:
        intake.features = [names[column] if named else f"x{column}" for column in numbers]
    return Roles(tuple(names), label, weight, hot, numbers)


def check_weights(weight: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which weights can be used."""
    return np.isfinite(weight) & (weight >= 0)
