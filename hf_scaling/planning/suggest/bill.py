"""What chosen runs cost together: a checkpoint, a label, an image is paid for once."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Bill:
    """What each of N candidate runs would add to what has been chosen.

    Attributes:
        own: (N,) the cost of the run itself.
        checkpoint: (N,) the cost of the pre-training it starts from; 0 where there is none, or it was made before.
        checkpoint_key: (N,) which pre-training that is: those who share one pay once.
        n_labels: (N,) labelled images it needs.
        n_images: (N,) upstream images it needs.
        label: Price of a label beyond those that are there.
        image: Price of an image beyond those that are there.
        labels_there: Labelled images that are there.
        images_there: Upstream images that are there.
    """

    own: np.ndarray
    checkpoint: np.ndarray
    checkpoint_key: np.ndarray
    n_labels: np.ndarray
    n_images: np.ndarray
    label: float
    image: float
    labels_there: float
    images_there: float

    @classmethod
    def of(cls, own: np.ndarray) -> "Bill":
        """A bill of runs whose costs have nothing to do with each other."""
        none = np.zeros(len(own))
        return cls(own, none, np.arange(len(own)), none, none, 0.0, 0.0, 0.0, 0.0)

    def cost(self) -> np.ndarray:
        """(N,) what each run adds now."""
        labels = self.label * np.maximum(self.n_labels - self.labels_there, 0.0)
        images = self.image * np.maximum(self.n_images - self.images_there, 0.0)
        return self.own + self.checkpoint + labels + images

    def pay(self, row: int) -> None:
        """Take a run as paid for, with all that others may share with it."""
        made = self.checkpoint_key == self.checkpoint_key[row]
        self.checkpoint = np.where(made, 0.0, self.checkpoint)
        self.labels_there = max(self.labels_there, float(self.n_labels[row]))
        self.images_there = max(self.images_there, float(self.n_images[row]))
