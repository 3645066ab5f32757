"""From an image and words to an answer: views, refinement, score, and whether the thing is there.

`textsam.inference.segmenter.Segmenter` puts the other modules together. What an adapter carries
(`cut`, `kinds`, `refinement`, `score`) and what the export shares (`decoded`, `judgement`,
`question`) do not import torch; nor do `passes`, `settle` and `views`, settings of a call.
"""
