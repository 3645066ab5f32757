"""Data sets: manifests and folders, samples, augmentation, training items.

Import from the modules: `textsam.data.sets`, `textsam.data.folder`, `textsam.data.sample`,
`textsam.data.manifest`, `textsam.data.augment`, `textsam.data.dataset` (the last needs torch).
"""
