"""foveal: train vision-language models that look before they reason."""

__version__ = "0.1.0"
