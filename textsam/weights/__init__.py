"""Base weights: the registry, the cache, and the packages that carry weights. No torch here."""

from textsam.weights.registry import PackageAsset, WeightEntry, WeightFile
from textsam.weights.store import (
    VerifyResult,
    cache_dir,
    cache_path,
    download,
    entry,
    identity_of,
    locate,
    registry,
    resolve,
    size_text,
    verify,
    where,
)

__all__ = [
    "PackageAsset",
    "VerifyResult",
    "WeightEntry",
    "WeightFile",
    "cache_dir",
    "cache_path",
    "download",
    "entry",
    "identity_of",
    "locate",
    "registry",
    "resolve",
    "size_text",
    "verify",
    "where",
]
