"""Stop strings: finds the first one in a text that grows, and reads each character once.

Knows characters. Knows no tokens. Source: Knuth, Morris and Pratt, "Fast Pattern Matching in Strings", 1977.
"""

from collections.abc import Iterable


class StopStrings:
    """Searches one text for several stop strings. Cost: characters of the text times number of stop strings."""

    def __init__(self, strings: Iterable[str]) -> None:
        self._searches = [_Search(string) for string in strings]
        self._read = 0  # characters

    def push(self, text: str) -> int | None:
        """Read the next piece of the text. Where in the whole text the earliest stop string begins that ends in the piece."""
        begins = [
            self._read + end - search.length for search in self._searches if (end := search.push(text)) is not None
        ]
        self._read += len(text)
        return min(begins, default=None)

    @property
    def begun(self) -> int:
        """Characters at the end of the text that may be the beginning of a stop string."""
        return max((search.matched for search in self._searches), default=0)


class _Search:
    """Searches for one string. `matched`: how many of its characters the text ends with."""

    def __init__(self, string: str) -> None:
        self.length, self.matched = len(string), 0
        self._string = string
        self._borders = [0] * len(string)  # of each beginning: its longest proper beginning that is also its end
        border = 0
        for index in range(1, len(string)):
            while border and string[border] != string[index]:
                border = self._borders[border - 1]
            border += string[border] == string[index]
            self._borders[index] = border

    def push(self, text: str) -> int | None:
        """Read the next piece; behind which of its characters the string ends first."""
        for index, character in enumerate(text):
            while self.matched and self._string[self.matched] != character:
                self.matched = self._borders[self.matched - 1]
            self.matched += self._string[self.matched] == character
            if self.matched == self.length:
                return index + 1
        return None
