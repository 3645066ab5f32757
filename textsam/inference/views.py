"""Which views of an image are averaged, without torch; `textsam.inference.view` is one of them."""

from __future__ import annotations

from dataclasses import dataclass

from textsam.errors import ConfigError

__all__ = ["Views", "sides_of", "views_of"]

_MIRRORED = "mirrored"


@dataclass(frozen=True)
class Views:
    """Ways of looking at an image besides the plain one, at the adapter's own side.

    Attributes:
        sides_px: further sides of the model's square.
        mirrored: also with left and right exchanged, at every side.
    """

    sides_px: tuple[int, ...] = ()
    mirrored: bool = False

    def __str__(self) -> str:
        """As `views_of` reads it; empty: no further view."""
        return ",".join([*map(str, self.sides_px), *([_MIRRORED] if self.mirrored else [])])


def views_of(given: str | Views | None) -> Views:
    """Views as users write them: sides in pixels and "mirrored", parted by commas.

    Args:
        given: such as "mirrored" or "112,168,mirrored"; None or "": no further view.

    Raises:
        ConfigError: something else, or something twice.
    """
    if given is None or isinstance(given, Views):
        return given or Views()
    words = _words(given) if isinstance(given, str) else None
    if words is None or not all(word == _MIRRORED or word.isdecimal() for word in words):
        raise ConfigError(
            f"views is {given!r}; give sides of the model's square in pixels and 'mirrored', "
            "each once and parted by commas, such as '112,168,mirrored'"
        )
    return Views(tuple(int(word) for word in words if word != _MIRRORED), _MIRRORED in words)


def sides_of(given: str | None) -> tuple[int, ...]:
    """Sides of the model's square in pixels, as users write them: parted by commas.

    Args:
        given: such as "168,336"; None or "": none.

    Raises:
        ConfigError: something else, or something twice.
    """
    words = _words("" if given is None else given)
    if words is None or not all(word.isdecimal() for word in words):
        raise ConfigError(
            f"sides is {given!r}; give sides of the model's square in pixels, each once and parted "
            "by commas, such as '168,336'"
        )
    return tuple(map(int, words))


def _words(given: str) -> list[str] | None:
    """What stands between commas; None where something stands there twice."""
    words = [word.strip() for word in given.split(",")] if given.strip() else []
    return words if len({word.lstrip("0") for word in words}) == len(words) else None
