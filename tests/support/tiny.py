"""Small models and data sets, for tests of the trainer."""

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

from hf_scaling import models

N_CLASSES = 4
IMAGE_SIZE = 8


class Images(Dataset):
    """`n` noisy images of `N_CLASSES` patterns; image i is the same whatever `n`."""

    def __init__(self, n: int, seed: int = 0, noise: float = 1.0):
        self.labels = torch.arange(n) % N_CLASSES
        patterns = torch.randn(N_CLASSES, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(99))
        noises = torch.randn(n, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(seed))
        self.pixels = patterns[self.labels] + noise * noises

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def native_vit(seed: int = 0, width: int = 32, image_size: int = IMAGE_SIZE) -> PreTrainedModel:
    """A ViT of transformers."""
    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=image_size,
        patch_size=image_size // 2,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        num_labels=N_CLASSES,
    )
    return ViTForImageClassification(config)


def timm_vit(seed: int = 0) -> PreTrainedModel:
    """A ViT of timm in its wrapper."""
    return models.build_student("vit-30k", N_CLASSES, IMAGE_SIZE, patch_size=4, seed=seed)


STUDENTS = {"native": native_vit, "timm": timm_vit}
