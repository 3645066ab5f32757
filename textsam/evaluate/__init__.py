"""Evaluation: ask for what is in an image and what is not, score the answers, keep each case."""

from textsam.evaluate.ask import SegmentsByGeometry, SegmentsByWord
from textsam.evaluate.compare import EvaluationComparison, compare_evaluations
from textsam.evaluate.plan import Prompts, Protocol
from textsam.evaluate.run import evaluate
from textsam.evaluate.summary import EvaluationSummary

__all__ = [
    "EvaluationComparison",
    "EvaluationSummary",
    "Prompts",
    "Protocol",
    "SegmentsByGeometry",
    "SegmentsByWord",
    "compare_evaluations",
    "evaluate",
]
