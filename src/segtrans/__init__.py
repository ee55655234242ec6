"""How well do adversarial examples transfer between semantic segmentation models?"""

__version__ = "0.1.0"
