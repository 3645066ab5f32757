"""A plugin for napari: segment the image on the screen by words. See `docs/napari.md`."""

from __future__ import annotations
