"""Settings in a YAML file: what they are made of, and reading them before they are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from textsam.errors import ConfigError

__all__ = ["Section", "read_sections"]


class Section(BaseModel):
    """Settings that are fixed once read, and refuse what they do not know and what is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_sections(path: Path, missing: str) -> dict[str, Any]:
    """The top level of a YAML file.

    Args:
        path: of the file.
        missing: the message where there is no such file.

    Raises:
        ConfigError: the file is missing, is not YAML in UTF-8, has a key twice, or is no mapping.
    """
    # Exported models have sections too, and run where only the packages of docs/export.md are.
    import yaml

    if not path.is_file():
        raise ConfigError(missing)
    try:
        text = path.read_text(encoding="utf-8")
        twice = _given_twice(yaml.compose(text, Loader=yaml.SafeLoader))
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if twice:
        raise ConfigError(f"{path}, {twice}; what the first says would be lost: make them one")
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds {type(settings).__name__}, not sections of settings")
    return settings


def _given_twice(root: Any) -> str:
    """Where a mapping of a YAML tree has a key that it has already; empty if none does.

    Of two equal keys YAML's reader keeps the last and says nothing.
    """
    found: list[tuple[int, str]] = []
    nodes, visited = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in visited or not isinstance(getattr(node, "value", None), list):
            continue
        visited.add(id(node))  # what an alias names is there again
        keys: set[str] = set()
        for item in node.value:
            if not isinstance(item, tuple):
                nodes.append(item)
                continue
            key, value = item
            nodes.append(value)
            if isinstance(key.value, str):
                if key.value in keys:
                    found.append((key.start_mark.line + 1, key.value))
                keys.add(key.value)
    return "line {}: {!r} is given twice".format(*min(found)) if found else ""
