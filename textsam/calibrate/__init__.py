"""What training leaves open, chosen on validation images: how often to refine, where to cut masks,
what a score is worth, and when to say "not there".
"""

from textsam.calibrate.calibration import Calibration
from textsam.calibrate.cut import fit_cut
from textsam.calibrate.finish import finish_adapter
from textsam.calibrate.kinds import fit_kinds
from textsam.calibrate.run import EMPTY_ANNOTATED, EMPTY_MODALITY, calibrate
from textsam.calibrate.sides import fit_sides

__all__ = [
    "EMPTY_ANNOTATED",
    "EMPTY_MODALITY",
    "Calibration",
    "calibrate",
    "finish_adapter",
    "fit_cut",
    "fit_kinds",
    "fit_sides",
]
