"""Networks of the examples: short, plain, written from the papers' formulas. Not part of the package."""

from models.classifier import Classifier
from models.images import VGG11, VGG13, VGG16, AlexNet, LeNet, SlimResNet, VisionTransformer
from models.points import DGCNN, PointNet
from models.tabular import MLP
from models.text import SentenceEncoder, TextTransformer, WordTokenizer

__all__ = [
    "DGCNN",
    "MLP",
    "VGG11",
    "VGG13",
    "VGG16",
    "AlexNet",
    "Classifier",
    "LeNet",
    "PointNet",
    "SentenceEncoder",
    "SlimResNet",
    "TextTransformer",
    "VisionTransformer",
    "WordTokenizer",
]
