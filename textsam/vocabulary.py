"""The vocabulary as facts: concepts, their names, and in which kinds of image they can occur.

`textsam.prompts` says what a text means by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = [
    "CLINICAL_DISTRACTORS",
    "CONCEPTS",
    "DISTRACTORS",
    "EVERYDAY",
    "IMAGE_KINDS",
    "MODALITIES",
    "NEAR_WORDS",
    "Concept",
]

MODALITIES: tuple[str, ...] = (
    "breast ultrasound",
    "forearm ultrasound",
    "endoscopic ultrasound",
    "brain MRI",
    "cardiac MRI",
    "chest X-ray",
    "colonoscopy",
    "dermoscopy",
    "retinal fundus",
    "microscopy",
    "electron microscopy",
)


@dataclass(frozen=True)
class Concept:
    """One thing that can be segmented.

    name: canonical name, singular, American spelling.
    synonyms: other names for the same thing, whatever the image.
    modalities: the members of `MODALITIES` in whose images it can be visible, annotated or not.
        Everywhere else in `MODALITIES` it is certainly absent; this is what makes a prompt a
        legal negative in training, so a doubtful modality belongs in the list.
    specific: modality -> names that hold only there ("breast mass").
    related: terms that are close but mean less, more or something else; they are used to suggest
        the concept and never to resolve to it.
    """

    name: str
    synonyms: tuple[str, ...]
    modalities: tuple[str, ...]
    specific: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    related: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that means this concept: canonical, synonyms, modality-specific names."""
        extra = tuple(name for names in self.specific.values() for name in names)
        return (self.name, *self.synonyms, *extra)

    def names_in(self, modality: str) -> tuple[str, ...]:
        """The names that are true of this concept in an image of `modality`."""
        return (self.name, *self.synonyms, *self.specific.get(modality, ()))


_TABLE = (
    Concept(
        "tumor",
        (
            "mass",
            "lesion",
            "neoplasm",
            "tumor mass",
            "tumor region",
            "tumor area",
            "neoplastic lesion",
        ),
        # A skin lesion or a polyp may be a neoplasm, a radiograph may show a mass, and stained
        # tissue is often tumor tissue: unknown there, hence listed.
        (
            "breast ultrasound",
            "endoscopic ultrasound",
            "brain MRI",
            "chest X-ray",
            "colonoscopy",
            "dermoscopy",
            "microscopy",
        ),
        {
            "breast ultrasound": (
                "breast tumor",
                "breast mass",
                "breast lesion",
                "breast nodule",
                "breast neoplasm",
            ),
            "brain MRI": (
                "brain tumor",
                "brain mass",
                "brain lesion",
                "brain neoplasm",
                "intracranial tumor",
                "intracranial mass",
            ),
        },
        (
            "cancer",
            "carcinoma",
            "malignancy",
            "nodule",
            "cyst",
            "benign tumor",
            "malignant tumor",
            "glioma",
            "meningioma",
            "pituitary tumor",
            "breast cancer",
            "brain cancer",
            "metastasis",
        ),
    ),
    Concept(
        "cell nucleus",
        ("nucleus", "nuclear region", "nucleus of a cell"),
        # Nuclei are cut through in electron micrographs too, where our sets do not annotate them.
        ("microscopy", "electron microscopy"),
        {},
        ("cell", "nucleolus", "cell body", "chromatin"),
    ),
    Concept(
        "lung",
        ("lung field", "pulmonary field", "lung region", "lung area"),
        # Cardiac MRI shows lung around the heart; a scan of the breast or from inside may reach
        # the pleura.
        ("chest X-ray", "cardiac MRI", "breast ultrasound", "endoscopic ultrasound"),
        {"chest X-ray": ("both lungs", "left and right lung", "right and left lung")},
        ("left lung", "right lung", "upper lobe", "lung lobe", "pleura", "thorax"),
    ),
    Concept(
        "nerve",
        ("peripheral nerve", "nerve fascicle", "nerve bundle", "nerve trunk"),
        # Cranial nerves show in brain MRI, the optic disc is the head of the optic nerve, and the
        # electron micrographs come from a nerve cord; breast ultrasound does not resolve nerves.
        ("forearm ultrasound", "brain MRI", "retinal fundus", "electron microscopy", "microscopy"),
        {},
        ("median nerve", "ulnar nerve", "radial nerve", "optic nerve", "nerve cell", "neuron"),
    ),
    Concept(
        "vessel",
        ("blood vessel",),
        # Vessels are visible, and not annotated, in nearly every macroscopic image.
        tuple(m for m in MODALITIES if m != "electron microscopy"),
        {"forearm ultrasound": ("forearm vessel", "forearm blood vessel")},
        ("artery", "vein", "capillary", "vasculature"),
    ),
    Concept(
        "cell membrane",
        (
            "membrane",
            "plasma membrane",
            "cellular membrane",
            "cell boundary",
            "neuron membrane",
            "neuronal membrane",
            "neurite membrane",
        ),
        ("electron microscopy", "microscopy"),
        {},
        ("cell wall", "cell border", "mitochondrial membrane", "nuclear membrane", "cell"),
    ),
    Concept(
        "polyp",
        ("colorectal polyp", "colon polyp", "colonic polyp", "intestinal polyp"),
        ("colonoscopy", "endoscopic ultrasound"),
        related=("adenoma", "gastric polyp", "hyperplastic polyp"),
    ),
    Concept(
        "skin lesion",
        ("lesion", "cutaneous lesion", "lesion of the skin", "pigmented skin lesion"),
        ("dermoscopy",),
        {"dermoscopy": ("pigmented lesion",)},
        ("melanoma", "mole", "nevus", "skin cancer", "skin", "skin tumor"),
    ),
    Concept(
        "retinal vessel",
        (
            "retinal blood vessel",
            "retina vessel",
            "vessel of the retina",
            "retinal vasculature",
            "retinal vascular tree",
            "fundus vessel",
        ),
        ("retinal fundus",),
        {},
        ("retinal artery", "retinal vein", "arteriole", "venule"),
    ),
    # "Left ventricle" also names a lateral ventricle of the brain, and the heart's chambers lie
    # inside the silhouette on a radiograph: unknown in both.
    Concept(
        "right ventricle",
        (
            "rv",
            "right ventricular cavity",
            "rv cavity",
            "rv blood pool",
            "right ventricular blood pool",
            "right cardiac ventricle",
            "right ventricle of the heart",
        ),
        ("cardiac MRI", "brain MRI", "chest X-ray", "endoscopic ultrasound"),
        {},
        ("ventricle", "right atrium", "heart"),
    ),
    Concept(
        "left ventricle",
        (
            "lv",
            "left ventricular cavity",
            "lv cavity",
            "lv blood pool",
            "left ventricular blood pool",
            "left cardiac ventricle",
            "left ventricle of the heart",
        ),
        ("cardiac MRI", "brain MRI", "chest X-ray", "endoscopic ultrasound"),
        {},
        ("ventricle", "left atrium", "heart"),
    ),
    Concept(
        "myocardium",
        (
            "heart muscle",
            "cardiac muscle",
            "myocardial wall",
            "left ventricular myocardium",
            "lv myocardium",
            "lv wall",
            "left ventricular wall",
        ),
        ("cardiac MRI", "chest X-ray", "endoscopic ultrasound"),
        {},
        ("heart", "pericardium", "endocardium", "scar", "septum", "myo"),
    ),
    Concept(
        "mitochondria",
        ("mitochondrion", "mitochondrial region"),
        ("electron microscopy", "microscopy"),
        {},
        ("organelle", "mitochondrial membrane", "crista"),
    ),
    Concept(
        "synapse",
        ("synaptic junction", "synaptic contact", "synaptic site"),
        ("electron microscopy",),
        {},
        ("synaptic vesicle", "neuron", "synaptic cleft"),
    ),
)

CONCEPTS: Mapping[str, Concept] = MappingProxyType({c.name: c for c in _TABLE})

# In no medical image whatever its modality.
EVERYDAY = (
    "dog",
    "cat",
    "car",
    "bicycle",
    "house",
    "tree",
    "coffee cup",
    "airplane",
    "guitar",
    "umbrella",
    "keyboard",
    "banana",
    "mountain",
    "traffic light",
)
# Clinical terms, with the modalities in whose images they cannot be ruled out.
CLINICAL_DISTRACTORS: Mapping[str, tuple[str, ...]] = {
    "bone fracture": ("chest X-ray",),
    "fetal head": (),
    "kidney stone": ("endoscopic ultrasound",),
    "prostate": (),
    "tooth": ("chest X-ray",),
    "knee meniscus": (),
    "thyroid": ("chest X-ray",),
    "liver": ("chest X-ray", "cardiac MRI", "microscopy", "endoscopic ultrasound"),
    "spleen": ("chest X-ray", "cardiac MRI", "microscopy", "endoscopic ultrasound"),
    "optic disc": ("retinal fundus",),
    "gallbladder": ("chest X-ray", "cardiac MRI", "endoscopic ultrasound"),
    "surgical instrument": ("colonoscopy", "endoscopic ultrasound"),
}

# Words of their own that are one letter away from a word of a concept's name, and begin alike; a
# prompt with one of them is not taken for a slip of the finger.
NEAR_WORDS = (
    "beast",
    "cardia",
    "colony",
    "contract",
    "fungus",
    "legion",
    "lesson",
    "plasm",
    "polys",
    "retinol",
    "timor",
    "tutor",
)

IMAGE_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "breast ultrasound": "ultrasound",
        "forearm ultrasound": "ultrasound",
        # From inside the body, among organs that no transducer on the skin of breast or arm sees.
        "endoscopic ultrasound": "endoscopic ultrasound",
        "brain MRI": "MRI",
        "cardiac MRI": "MRI",
        "chest X-ray": "X-ray",
        "colonoscopy": "colonoscopy",
        "dermoscopy": "dermoscopy",
        "retinal fundus": "fundus photograph",
        "microscopy": "light microscopy",
        "electron microscopy": "electron microscopy",
    }
)
"""Modality -> kind of image, coarse enough to be told by its look on a scanner never seen."""

DISTRACTORS: tuple[str, ...] = (*EVERYDAY, *CLINICAL_DISTRACTORS)
"""Prompts outside the vocabulary that must come back empty; see `distractors_for`."""
