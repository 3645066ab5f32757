"""Settings in a YAML file: what they are made of, and reading them before they are checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from textsam.errors import ConfigError

__all__ = ["Section", "read_sections", "yaml_value"]

_MERGE = "tag:yaml.org,2002:merge"


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
        settings = yaml_value(path.read_text(encoding="utf-8"), lambda line: f"{path}, line {line}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds {type(settings).__name__}, not sections of settings")
    return settings


def yaml_value(text: str, where: Callable[[int], str]) -> Any:
    """What a text in YAML says.

    Args:
        text: YAML.
        where: the name for messages, of the number of a line.

    Raises:
        ConfigError: a mapping has a key twice.
        yaml.YAMLError: it is not YAML.
    """
    import yaml

    if found := _given_twice(yaml.compose(text, Loader=yaml.SafeLoader)):
        line, key = found
        raise ConfigError(
            f"{where(line)}: {key!r} is given twice; what the first says would "
            "be lost: make them one"
        )
    return yaml.safe_load(text)


def _given_twice(root: Any) -> tuple[int, str] | None:
    """The first line and key, in a YAML tree, of which the same mapping has the key already.

    Of two equal keys YAML's reader keeps the last and says nothing.
    """
    found: list[tuple[int, str]] = []
    nodes, visited = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in visited or not isinstance(getattr(node, "value", None), list):
            continue
        visited.add(id(node))  # what an alias names is there again
        keys: set[tuple[str, str]] = set()
        for item in node.value:
            if not isinstance(item, tuple):
                nodes.append(item)
                continue
            key, value = item
            nodes.append(value)
            # The number 1 is another key than the text, and of "<<" all are merged.
            if isinstance(key.value, str) and key.tag != _MERGE:
                if (key.tag, key.value) in keys:
                    found.append((key.start_mark.line + 1, key.value))
                keys.add((key.tag, key.value))
    return min(found, default=None)
