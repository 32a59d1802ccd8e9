"""One of several shares of a cube's tiles, which runs of their own do side by side."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from alpage.errors import StudyError


@dataclass(frozen=True)
class Part:
    """A share of the tiles: the second of four is 2/4."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Return the part that a text names.

        Raises StudyError where it names none.

        >>> Part.parse("2/4")
        Part(number=2, of=4)
        """
        found = re.fullmatch(r"([0-9]{1,9})/([1-9][0-9]{0,8})", text.strip())
        if found is None:
            raise StudyError(f"part: expected one such as 2/4, the second of four, got {text!r}")
        number, of = map(int, found.groups())
        if not 1 <= number <= of:
            raise StudyError(f"part: expected one from 1/{of} to {of}/{of}, got {number}/{of}")
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def is_beside(self, other: str | None) -> bool:
        """Return whether a part of that name, if any, shares no tile with this one.

        >>> Part(2, 4).is_beside("1/4"), Part(2, 4).is_beside("2/4"), Part(2, 4).is_beside("1/3")
        (True, False, False)
        """
        return other != str(self) and (other or "").endswith(f"/{self.of}")

    def share[T](self, items: Sequence[T]) -> list[T]:
        """Return the items of this part: each is in one part, and those in a row stay together.

        Raises StudyError where there are fewer items than parts.

        >>> [Part(n, 3).share("abcdefgh") for n in (1, 2, 3)]
        [['a', 'b'], ['c', 'd', 'e'], ['f', 'g', 'h']]
        """
        if self.of > len(items):
            raise StudyError(
                f"part: expected at most {len(items)} parts, one for each tile of the area, got "
                f"{self.of}"
            )
        first, stop = (len(items) * n // self.of for n in (self.number - 1, self.number))
        return list(items[first:stop])
