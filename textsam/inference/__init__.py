"""From an image and words to an answer: views, refinement, score, and whether the thing is there.

`textsam.inference.segmenter.Segmenter` puts the other modules together. Settings that an adapter
carries (`cut`, `kinds`, `score`, `settle`, `views`) and `judgement` do not import torch, as the
export needs them without.
"""
