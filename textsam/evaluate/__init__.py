"""Evaluation: ask for what is in an image and what is not, score the answers, keep each case."""

from textsam.evaluate.run import SegmentsByWord, evaluate
from textsam.evaluate.summary import EvaluationSummary

__all__ = ["EvaluationSummary", "SegmentsByWord", "evaluate"]
