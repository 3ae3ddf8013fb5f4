"""Perturbations: a picture in, a picture of the same size out. Pure, keyed by a generator, one class each."""

REGISTRY: dict[str, str] = {
    "patch_mask": "foveal.perturbations.occlude:PatchMask",
    "salient_mask": "foveal.perturbations.salient:SalientMask",
    "occlusion": "foveal.perturbations.occlude:Occlusion",
    "crop": "foveal.perturbations.occlude:Crop",
    "noise": "foveal.perturbations.noise:Noise",
    "diffusion_noise": "foveal.perturbations.noise:DiffusionNoise",
    "blank": "foveal.perturbations.replace:Blank",
    "other_picture": "foveal.perturbations.replace:OtherPicture",
    "colour": "foveal.perturbations.distort:Colour",
    "rotation": "foveal.perturbations.distort:Rotation",
    "perspective": "foveal.perturbations.distort:Perspective",
    "blur": "foveal.perturbations.distort:Blur",
    "random_choice": "foveal.perturbations.chain:RandomChoice",
    "chain": "foveal.perturbations.chain:Chain",
}
"""Short names of the shipped perturbations; strings, so that nothing is imported that is not used."""
