"""What an evaluation asked of whom, in words: the line beside its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textsam.inference.refinement import RefineWith
from textsam.inference.settle import Settle

__all__ = ["captions_of_two", "how_asked", "who_and_how"]

# As many digits of a hash tell two adapters apart.
_DIGITS = 8


def who_and_how(settings: Mapping[str, Any], mark: str = "") -> str:
    """Adapter, preset, and how it was asked.

    Args:
        settings: of an evaluation, as `evaluation.json` has them; old ones have fewer.
        mark: after the adapter's name, where that does not tell it.
    """
    return (
        f"adapter {settings.get('adapter')}{mark}, preset {settings.get('preset')}, "
        f"{how_asked(settings)}"
    )


def captions_of_two(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, str]:
    """`who_and_how` of both; two adapters of one name have the beginnings of their hashes, too."""
    marks = ["", ""]
    if first.get("adapter") == second.get("adapter"):
        # A calibration changes the identity and leaves the tensors' fingerprint.
        for name in ("identity", "fingerprint"):
            one, other = first.get(name), second.get(name)
            if one and other:
                if one != other:
                    marks = [f" ({name} {str(value)[:_DIGITS]})" for value in (one, other)]
                break
    return who_and_how(first, marks[0]), who_and_how(second, marks[1])


def how_asked(settings: Mapping[str, Any]) -> str:
    """Refinement, prompts, further views, and what is drawn by the seed."""
    protocol = settings.get("protocol", "text")
    parts = [f"refine {_refinement(settings)}", f"prompts {protocol}"]
    if views := settings.get("views"):
        parts.append(f"views {views}")
    if shifts := settings.get("box_shifts"):
        parts.append(f"box shifts {', '.join(f'{100 * shift:g}' for shift in shifts)} %")
    if protocol != "text" or _draws(settings):
        parts.append(f"seed {settings.get('seed')}")
    return ", ".join(parts)


def _refinement(settings: Mapping[str, Any]) -> str:
    refine, refine_with = settings.get("refine"), settings.get("refine_with")
    if refine_with == RefineWith.NONE:
        return "none"
    if isinstance(refine, Mapping):
        words = _settling(refine)
    else:
        words = "as the adapter asks" if refine is None else str(refine)
    # Without a pass nothing is taken from a mask.
    return words if refine_with is None or refine == 0 else f"{words} with {refine_with}"


def _settling(rule: Mapping[str, Any]) -> str:
    """Until the mask settles, and in what the rule is another than the default."""
    usual = Settle().model_dump()
    falls = rule.get("falls")
    told = {
        "tolerance_px": f"tolerance {rule.get('tolerance_px')} px",
        "most_passes": f"at most {rule.get('most_passes')} passes",
        "falls": "no guard" if falls is None else f"guard at {falls} falls",
    }
    other = [words for name, words in told.items() if rule.get(name) != usual[name]]
    return "until the mask settles" + (f" ({', '.join(other)})" if other else "")


def _draws(settings: Mapping[str, Any]) -> bool:
    """Whether refinement takes random points of a mask."""
    random = [kind.value for kind in RefineWith if kind.random_points]
    return settings.get("refine_with") in random and settings.get("refine") != 0
