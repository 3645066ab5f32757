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
        ConfigError: the file is missing, is not YAML in UTF-8, or is no mapping.
    """
    # Exported models have sections too, and run where only the packages of docs/export.md are.
    import yaml

    if not path.is_file():
        raise ConfigError(missing)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds {type(settings).__name__}, not sections of settings")
    return settings
