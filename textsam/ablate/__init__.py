"""Ablations: one table from many trainings that differ in one setting."""

from textsam.ablate.spec import AblationConfig, read_ablation

__all__ = ["AblationConfig", "read_ablation"]
