"""The task that the demo model learns: sums of small numbers, in words ("seven plus five is" → " twelve.")."""

from __future__ import annotations

from dataclasses import dataclass

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@dataclass(frozen=True, slots=True)
class Sum:
    """A question and its answer."""

    left: int
    right: int

    @property
    def question(self) -> str:
        """What the model is asked."""
        return f"{in_words(self.left)} plus {in_words(self.right)} is"

    @property
    def answer(self) -> str:
        """What it should say, leading space included."""
        return f" {in_words(self.left + self.right)}."


def in_words(number: int) -> str:
    """Spell a number from 0 to 99."""
    if number < len(_UNITS):
        return _UNITS[number]
    tens, unit = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_UNITS[unit]}" if unit else "")


def all_sums(below: int) -> list[Sum]:
    """List the sums of any two numbers under `below`."""
    return [Sum(left, right) for left in range(below) for right in range(below)]
